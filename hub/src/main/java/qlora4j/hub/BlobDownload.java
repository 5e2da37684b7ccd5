package qlora4j.hub;

import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.LinkOption;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.util.concurrent.atomic.AtomicLong;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.hub.HubException.Kind;

/**
 * One file on its way into the cache. What arrives goes to a file beside its place, which stays when the connection
 * breaks and is continued from its end, in this run or a later one; it moves into its place only when its length and its
 * checksum are right.
 */
final class BlobDownload {
    private static final int BUFFER = 1 << 18;
    private static final int PARTIAL = 206;
    private static final Pattern RANGE = Pattern.compile("bytes (\\d{1,18})-(\\d{1,18})/(\\d{1,18}|\\*)");

    private final HubClient client;
    private final HubCache cache;
    private final RepoId repo;
    private final RemoteFile file;
    private final Hub.Listener listener;
    private final String what;

    BlobDownload(HubClient client, HubCache cache, RepoId repo, RemoteFile file, Hub.Listener listener) {
        this.client = client;
        this.cache = cache;
        this.repo = repo;
        this.file = file;
        this.listener = listener;
        this.what = repo + ": " + file.name();
    }

    /**
     * What the hub says of a file.
     *
     * @param name in the repository
     * @param uri where it is
     * @param etag its checksum and the name of its blob
     * @param size its length; -1 where the hub does not say
     */
    record RemoteFile(String name, URI uri, String etag, long size) {
    }

    /** Downloads the file unless it is there already. The caller holds its lock. */
    void run() throws IOException {
        Path blob = cache.blob(file.etag);
        if (Files.exists(blob)) {
            return;
        }
        Path part = cache.incomplete(file.etag);
        if (Files.exists(part, LinkOption.NOFOLLOW_LINKS) && !Files.isRegularFile(part, LinkOption.NOFOLLOW_LINKS)) {
            throw new HubException(Kind.UNSAFE_NAME, part + " is no plain file; remove it and try again");
        }
        long began = Files.exists(part) ? Files.size(part) : 0;
        if (file.size >= 0 && began > file.size) {
            Files.delete(part);
            began = 0;
        }
        room(began);
        listener.started(file.name, Math.max(began, 0), file.size);
        String wrong = fetch(part);
        if (wrong != null && began > 0) {
            // What an earlier run left may be to blame; once more without it.
            Files.delete(part);
            wrong = fetch(part);
        }
        if (wrong != null) {
            Files.delete(part);
            throw new HubException(Kind.WRONG_CHECKSUM, what + ": what was downloaded has the checksum " + wrong
                    + ", the hub says " + file.etag + "; it was deleted, try again");
        }
        HubCache.move(part, blob);
        listener.finished(file.name, Files.size(blob));
    }

    private void room(long began) throws IOException {
        long free = Files.getFileStore(cache.blob(file.etag).getParent()).getUsableSpace();
        if (file.size - began > free) {
            throw new IOException(what + ": " + (file.size - began) + " bytes are to come and the disk of "
                    + cache.blob(file.etag).getParent() + " has room for " + free);
        }
    }

    /** Brings {@code part} to its whole length; null, or the wrong checksum that it then has. */
    private String fetch(Path part) throws IOException {
        try (FileChannel out = FileChannel.open(part, StandardOpenOption.CREATE, StandardOpenOption.READ,
                StandardOpenOption.WRITE, LinkOption.NOFOLLOW_LINKS)) {
            Checksum checksum = new Checksum(file.etag, file.size);
            long at = read(out, checksum);
            boolean whole = file.size >= 0 && at == file.size;
            long furthest = at;
            for (int attempt = 1; !whole; attempt++) {
                HubClient.Ask ask = new HubClient.Ask(repo, what, "GET", file.uri, at);
                IOException broken = null;
                HttpResponse<InputStream> response = client.send(ask);
                boolean refused = response.statusCode() == HubClient.RANGE_REFUSED;
                if (refused || at > 0 && start(response) != at) {
                    // The server does not continue: from the beginning, in the same answer if that holds it.
                    out.truncate(0);
                    out.position(0);
                    checksum = new Checksum(file.etag, file.size);
                    at = 0;
                }
                try (InputStream in = response.body()) {
                    if (!refused) {
                        if (at == 0 && start(response) != 0) {
                            throw new HubException(Kind.BAD_ANSWER, what + ": the server sends another part of the file"
                                    + " than was asked for");
                        }
                        at = copy(in, out, checksum, at);
                        whole = file.size < 0 || at == file.size;
                    }
                } catch (HubException e) {
                    throw e;
                } catch (IOException e) {
                    broken = e;
                    at = out.size();
                }
                if (at > furthest) {
                    // It gets on; only a server that does not is given up.
                    furthest = at;
                    attempt = 0;
                }
                if (!whole && attempt >= HubClient.ATTEMPTS) {
                    throw new HubException(Kind.WRONG_LENGTH, what + ": the download ends after " + at + " of "
                            + file.size + " bytes" + (broken == null ? "" : " (" + HubClient.reason(broken) + ")")
                            + "; try again, it goes on from there", broken);
                }
                if (!whole) {
                    client.pause(ask, HubClient.backoff(Math.max(attempt, 1)));
                }
            }
            out.force(true);
            if (file.size < 0) {
                // Git's hash begins with the length, which is known only now.
                checksum = new Checksum(file.etag, at);
                read(out, checksum);
            }
            return checksum.mismatch();
        }
    }

    /** The first byte that an answer holds. */
    private long start(HttpResponse<?> response) throws HubException {
        if (response.statusCode() != PARTIAL) {
            return 0;
        }
        String range = response.headers().firstValue("Content-Range").orElse("");
        Matcher m = RANGE.matcher(range);
        if (!m.matches()) {
            throw new HubException(Kind.BAD_ANSWER, what + ": a part of the file without saying which: "
                    + HubClient.shown(range));
        }
        if (file.size >= 0 && !m.group(3).equals("*") && Long.parseLong(m.group(3)) != file.size) {
            throw new HubException(Kind.WRONG_LENGTH, what + ": the hub says " + file.size + " bytes, the server "
                    + m.group(3));
        }
        return Long.parseLong(m.group(1));
    }

    /** Feeds what is there to the checksum; how much that is. */
    private static long read(FileChannel channel, Checksum checksum) throws IOException {
        byte[] buffer = new byte[BUFFER];
        channel.position(0);
        for (int n; (n = channel.read(ByteBuffer.wrap(buffer))) > 0;) {
            checksum.update(buffer, n);
        }
        return channel.position();
    }

    private long copy(InputStream in, FileChannel out, Checksum checksum, long from) throws IOException {
        byte[] buffer = new byte[BUFFER];
        long at = from;
        try (Watch watch = new Watch(in, client.settings().timeout())) {
            for (int n; (n = in.read(buffer)) >= 0;) {
                watch.alive();
                if (file.size >= 0 && n > file.size - at) {
                    throw new HubException(Kind.WRONG_LENGTH, what + ": the server sends more than the " + file.size
                            + " bytes that the hub says");
                }
                ByteBuffer bytes = ByteBuffer.wrap(buffer, 0, n);
                while (bytes.hasRemaining()) {
                    out.write(bytes);
                }
                checksum.update(buffer, n);
                at += n;
                listener.progress(file.name, at, file.size);
            }
        }
        return at;
    }

    /** Closes a body that has stopped coming, which makes its reader fail. */
    private static final class Watch implements AutoCloseable {
        private final AtomicLong last = new AtomicLong(System.nanoTime());
        private final Thread thread;

        Watch(InputStream in, Duration patience) {
            thread = Thread.ofVirtual().start(() -> {
                try {
                    while (System.nanoTime() - last.get() < patience.toNanos()) {
                        Thread.sleep(Math.min(1000, Math.max(1, patience.toMillis() / 4)));
                    }
                    in.close();
                } catch (InterruptedException | IOException e) {
                    Thread.currentThread().interrupt();
                }
            });
        }

        void alive() {
            last.set(System.nanoTime());
        }

        @Override
        public void close() {
            thread.interrupt();
        }
    }
}
