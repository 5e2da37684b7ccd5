package qlora4j.hub;

import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.Optional;
import java.util.UUID;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.locks.ReentrantLock;
import qlora4j.hub.HubException.Kind;

/**
 * One model's folder in the cache, laid out as huggingface_hub lays it out:
 *
 * <pre>
 * models--OWNER--NAME/blobs/CHECKSUM                       the files
 * models--OWNER--NAME/snapshots/COMMIT/FILE                links to them, by name, a folder for each commit
 * models--OWNER--NAME/refs/REVISION                        the commit of a branch or tag
 * .locks/models--OWNER--NAME/CHECKSUM.lock                 held while a file is downloaded
 * </pre>
 */
final class HubCache {
    private static final Map<Path, ReentrantLock> IN_PROCESS = new ConcurrentHashMap<>();
    /** Not Python's {@code .incomplete}: its locks and Java's do not see each other. */
    private static final String INCOMPLETE = ".qlora.incomplete";

    private final Path root;
    private final RepoId repo;
    private final Path folder;

    HubCache(Path root, RepoId repo) {
        this.root = root.toAbsolutePath().normalize();
        this.repo = repo;
        this.folder = this.root.resolve(repo.folder());
    }

    /** The commit that the revision was when it was last pulled. */
    Optional<String> commit() throws IOException {
        if (repo.isCommit()) {
            return Optional.of(repo.revision());
        }
        Path ref = folder.resolve("refs").resolve(repo.revision());
        if (!Files.isRegularFile(ref)) {
            return Optional.empty();
        }
        String commit = Files.readString(ref).strip();
        return SafeNames.isBlobName(commit) ? Optional.of(commit) : Optional.empty();
    }

    Path snapshot(String commit) {
        return folder.resolve("snapshots").resolve(commit);
    }

    Path blob(String etag) {
        return folder.resolve("blobs").resolve(etag);
    }

    Path incomplete(String etag) {
        return folder.resolve("blobs").resolve(etag + INCOMPLETE);
    }

    /** The place of a file in a snapshot; its name was checked. */
    Path pointer(String commit, String name) {
        return snapshot(commit).resolve(name);
    }

    /** Makes the folders of a file, and sees that no link leads them out of the model's folder. */
    void prepare(String commit, String name) throws IOException {
        Files.createDirectories(folder.resolve("blobs"));
        Path parent = pointer(commit, name).getParent();
        Files.createDirectories(parent);
        Path real = folder.toRealPath();
        for (Path p : new Path[]{folder.resolve("blobs"), parent}) {
            if (!p.toRealPath().startsWith(real)) {
                throw new HubException(Kind.UNSAFE_NAME, p + " is a link that leads out of " + folder
                        + "; remove it and try again");
            }
        }
    }

    /** Remembers the commit of the revision. */
    void remember(String commit) throws IOException {
        if (repo.isCommit() && repo.revision().equals(commit)) {
            return;
        }
        Path ref = folder.resolve("refs").resolve(repo.revision());
        if (Files.isRegularFile(ref) && Files.readString(ref).equals(commit)) {
            return;
        }
        Files.createDirectories(ref.getParent());
        Path temporary = ref.resolveSibling("." + UUID.randomUUID() + ".tmp");
        Files.writeString(temporary, commit);
        move(temporary, ref);
    }

    static void move(Path from, Path to) throws IOException {
        try {
            Files.move(from, to, StandardCopyOption.ATOMIC_MOVE);
        } catch (AtomicMoveNotSupportedException e) {
            Files.move(from, to, StandardCopyOption.REPLACE_EXISTING);
        }
    }

    /** Puts a blob into a snapshot under a name: a relative link, or a copy where there are no links. */
    void link(String etag, String commit, String name) throws IOException {
        Path pointer = pointer(commit, name);
        Path blob = blob(etag);
        if (Files.exists(pointer)) {
            return;
        }
        Files.deleteIfExists(pointer);
        try {
            Files.createSymbolicLink(pointer, pointer.getParent().relativize(blob));
        } catch (FileAlreadyExistsException e) {
            if (!Files.exists(pointer)) {
                throw e;
            }
        } catch (UnsupportedOperationException | FileSystemException e) {
            Path temporary = pointer.resolveSibling("." + UUID.randomUUID() + ".tmp");
            Files.copy(blob, temporary);
            move(temporary, pointer);
        }
    }

    /** What runs under a lock. */
    interface Work {
        void run() throws IOException;
    }

    /** Runs {@code work} while no other thread or Java process does so for the same file. */
    void locked(String etag, Work work) throws IOException {
        Path file = root.resolve(".locks").resolve(repo.folder()).resolve(etag + ".lock");
        Files.createDirectories(file.getParent());
        ReentrantLock mine = IN_PROCESS.computeIfAbsent(file, _ -> new ReentrantLock());
        mine.lock();
        try (FileChannel channel = FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE)) {
            FileLock lock = lock(channel);
            try {
                work.run();
            } finally {
                if (lock != null) {
                    lock.release();
                }
            }
        } finally {
            mine.unlock();
        }
    }

    /** Null where the file system has no locks: they only save a second download of the same file. */
    private static FileLock lock(FileChannel channel) {
        try {
            return channel.lock();
        } catch (IOException e) {
            return null;
        }
    }
}
