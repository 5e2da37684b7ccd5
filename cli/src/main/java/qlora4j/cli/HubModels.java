package qlora4j.cli;

import java.io.File;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import qlora4j.hub.Hub;
import qlora4j.hub.HubSettings;
import qlora4j.hub.RepoId;

/** Where a model is that a flag names: a directory, or {@code owner/name[@revision]} on the hub. */
final class HubModels {
    /** What to read the settings from; tests have their own. */
    interface Source {
        HubSettings settings() throws IOException;
    }

    private static Source source = HubSettings::ofProcess;

    private HubModels() {
    }

    static void source(Source other) {
        source = other;
    }

    static Hub hub() throws IOException {
        return new Hub(source.settings());
    }

    /** The model that is meant, if it is no file or directory and looks like one of the hub. */
    static Optional<RepoId> repo(Path given) {
        String text = given.toString().replace(File.separatorChar, '/');
        return !Files.exists(given) && RepoId.looksLike(text) ? Optional.of(RepoId.parse(text)) : Optional.empty();
    }

    /** What an adapter's configuration calls its base: the name on the hub without the revision, or the path. */
    static String name(Path given) {
        return repo(given).map(RepoId::name).orElse(given.toString());
    }

    /**
     * The directory of a model or an adapter. One of the hub is taken from the cache, without asking the network; where
     * the cache does not have it, that is said and it is downloaded.
     */
    static Path directory(Path given, PrintWriter err) throws IOException {
        return directory(given, true, err);
    }

    /** The same, but of a model that has to be downloaded only the configuration and the tokenizer. */
    static Path configuration(Path given, PrintWriter err) throws IOException {
        return directory(given, false, err);
    }

    private static Path directory(Path given, boolean withWeights, PrintWriter err) throws IOException {
        Optional<RepoId> repo = repo(given);
        if (repo.isEmpty()) {
            return given;
        }
        Hub hub = hub();
        Optional<Path> cached = hub.cached(repo.get());
        if (cached.isPresent()) {
            return cached.get();
        }
        if (!hub.settings().offline()) {
            err.println(given + " is no directory here, and not in the cache " + hub.settings().cache()
                    + ": downloading " + (withWeights ? "it" : "its configuration") + " from "
                    + hub.settings().endpoint());
            err.flush();
        }
        try (DownloadProgress progress = new DownloadProgress(err)) {
            return withWeights ? hub.pull(repo.get(), List.of(), progress)
                    : hub.pullConfiguration(repo.get(), progress);
        }
    }
}
