package qlora4j.hub;

import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.URLEncoder;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Stream;
import qlora4j.hub.BlobDownload.RemoteFile;
import qlora4j.hub.HubException.Kind;

/**
 * Models of the hub and their place in the cache. Only {@link #pull} uses the network.
 *
 * <p>A file is asked for as huggingface_hub asks: the commit and the names from {@code /api/models/NAME/revision/REV},
 * checksum and length from a HEAD of {@code /NAME/resolve/COMMIT/FILE}, the content from a GET of the same.
 */
public final class Hub {
    private final HubSettings settings;
    private final HubClient.Sleeper sleeper;

    /** Sees what is downloaded. */
    public interface Listener {
        /** A file of {@code size} bytes (-1: unknown) begins, {@code done} of which are there. */
        default void started(String file, long done, long size) {
        }

        /** {@code done} bytes of {@code size} are there. */
        default void progress(String file, long done, long size) {
        }

        /** A file is complete and its checksum right. */
        default void finished(String file, long size) {
        }
    }

    /** The hub with these settings. */
    public Hub(HubSettings settings) {
        this(settings, Thread::sleep);
    }

    Hub(HubSettings settings, HubClient.Sleeper sleeper) {
        this.settings = settings;
        this.sleeper = sleeper;
    }

    /** The settings. */
    public HubSettings settings() {
        return settings;
    }

    /**
     * The directory of a model or adapter that is in the cache with all it needs, where it is; the network is not asked,
     * not even for a newer commit of a branch.
     *
     * @throws IOException if the cache cannot be read
     */
    public Optional<Path> cached(RepoId repo) throws IOException {
        HubCache cache = new HubCache(settings.cache(), repo);
        Optional<String> commit = cache.commit();
        if (commit.isEmpty()) {
            return Optional.empty();
        }
        Path snapshot = cache.snapshot(commit.get());
        return isComplete(repo, snapshot) ? Optional.of(snapshot) : Optional.empty();
    }

    private static boolean isComplete(RepoId repo, Path snapshot) throws IOException {
        if (Files.exists(snapshot.resolve(RepoListing.ADAPTER_CONFIG))
                && Files.exists(snapshot.resolve(RepoListing.ADAPTER_WEIGHTS))) {
            return true;
        }
        if (!Files.exists(snapshot.resolve(RepoListing.CONFIG))) {
            return false;
        }
        if (Files.exists(snapshot.resolve(RepoListing.WEIGHTS))) {
            return true;
        }
        Path index = snapshot.resolve(RepoListing.INDEX);
        if (!Files.exists(index)) {
            return false;
        }
        List<String> there = new ArrayList<>();
        try (Stream<Path> files = Files.list(snapshot)) {
            files.filter(Files::exists).forEach(f -> there.add(f.getFileName().toString()));
        }
        try {
            new RepoListing("", there).shards(repo, Files.readAllBytes(index));
            return true;
        } catch (HubException e) {
            return false;
        }
    }

    /**
     * Brings a model or adapter into the cache: its configuration, its tokenizer, its weights in safetensors, and
     * nothing else. What is there already is not downloaded again.
     *
     * @param include patterns of further files, such as {@code *.gguf}
     * @return its directory
     * @throws HubException if it cannot be had
     * @throws IOException if the cache cannot be written
     */
    public Path pull(RepoId repo, List<String> include, Listener listener) throws IOException {
        return pull(repo, include, true, listener);
    }

    /** As {@link #pull} without the weights: what says how large a model is. Returns the directory. */
    public Path pullConfiguration(RepoId repo, Listener listener) throws IOException {
        return pull(repo, List.of(), false, listener);
    }

    private Path pull(RepoId repo, List<String> include, boolean withWeights, Listener listener) throws IOException {
        if (settings.offline()) {
            Optional<Path> cached = cached(repo);
            if (cached.isPresent() && include.isEmpty()) {
                return cached.get();
            }
            throw new HubException(Kind.OFFLINE, repo + ": HF_HUB_OFFLINE is set, and " + settings.cache()
                    + " does not have all of it; unset it, or pull the model where there is a network");
        }
        HubCache cache = new HubCache(settings.cache(), repo);
        try (HubClient client = new HubClient(settings, sleeper)) {
            RepoListing listing = RepoListing.of(client, repo);
            String commit = listing.commit();
            if (repo.isCommit() && !repo.revision().equals(commit)) {
                throw new HubException(Kind.BAD_ANSWER, repo + ": the hub answers with the commit " + commit);
            }
            Set<String> wanted = listing.wanted(repo, include);
            // Configurations come before weights: a mistake shows before the long part.
            for (String name : wanted) {
                if (!name.endsWith(".safetensors")) {
                    get(client, cache, repo, commit, name, listener);
                }
            }
            if (!withWeights) {
                return cache.snapshot(commit);
            }
            Set<String> weights = new TreeSet<>(wanted);
            weights.removeIf(name -> !name.endsWith(".safetensors"));
            if (wanted.contains(RepoListing.INDEX)) {
                weights.addAll(listing.shards(repo, Files.readAllBytes(cache.pointer(commit, RepoListing.INDEX))));
            }
            for (String name : weights) {
                get(client, cache, repo, commit, name, listener);
            }
            cache.remember(commit);
            return cache.snapshot(commit);
        }
    }

    private void get(HubClient client, HubCache cache, RepoId repo, String commit, String name, Listener listener)
            throws IOException {
        if (Files.exists(cache.pointer(commit, name))) {
            return;
        }
        RemoteFile file = describe(client, repo, commit, name);
        cache.prepare(commit, name);
        cache.locked(file.etag(), () -> {
            new BlobDownload(client, cache, repo, file, listener).run();
            cache.link(file.etag(), commit, name);
        });
    }

    /** What the headers of a file say, or those of the redirect to where it is kept. */
    private static RemoteFile describe(HubClient client, RepoId repo, String commit, String name) throws IOException {
        StringBuilder path = new StringBuilder("/" + repo.name() + "/resolve/" + commit);
        for (String part : name.split("/")) {
            path.append('/').append(URLEncoder.encode(part, StandardCharsets.UTF_8).replace("+", "%20"));
        }
        URI uri = client.at(path.toString());
        String what = repo + ": " + name;
        HttpResponse<InputStream> response = client.send(new HubClient.Ask(repo, what, "HEAD", uri, 0));
        response.body().close();
        String actual = response.headers().firstValue("X-Repo-Commit").orElse(commit);
        if (!actual.equals(commit)) {
            throw new HubException(Kind.BAD_ANSWER, what + ": the hub has it at the commit " + HubClient.shown(actual)
                    + " instead of " + commit);
        }
        String etag = response.headers().firstValue("X-Linked-Etag").or(() -> response.headers().firstValue("ETag"))
                .orElse("").replaceFirst("^W/", "").replaceAll("^\"|\"$", "");
        if (!SafeNames.isBlobName(etag)) {
            throw new HubException(etag.isEmpty() ? Kind.BAD_ANSWER : Kind.UNSAFE_NAME, what
                    + ": the hub gives no checksum that could name a file: \"" + HubClient.shown(etag) + "\"");
        }
        boolean redirect = response.statusCode() >= 300;
        String size = response.headers().firstValue("X-Linked-Size")
                .or(() -> redirect ? Optional.empty() : response.headers().firstValue("Content-Length")).orElse("-1");
        if (!size.matches("-1|\\d{1,18}")) {
            throw new HubException(Kind.BAD_ANSWER, what + ": its length is \"" + HubClient.shown(size) + "\"");
        }
        return new RemoteFile(name, uri, etag, Long.parseLong(size));
    }
}
