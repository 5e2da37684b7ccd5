package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import qlora4j.hub.RepoId;

/** {@code qlora pull}: downloads a model or an adapter from the hub. */
@Command(name = "pull", sortOptions = false, description = {
        "Downloads a model or an adapter from the Hugging Face hub into the cache that Python's libraries use too:",
        "configuration, tokenizer and safetensors, nothing else. What is there already is not downloaded again.",
        "HF_TOKEN, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE are heeded."})
final class Pull implements Callable<Integer> {
    @Spec
    private CommandSpec spec;

    @Parameters(paramLabel = "OWNER/NAME[@REVISION]", description = "The model and, but for main, its branch, tag or"
            + " commit.")
    private String repo;

    @Option(names = "--revision", paramLabel = "REVISION", description = "The same as @REVISION.")
    private String revision;

    @Option(names = "--include", paramLabel = "PATTERN",
            description = "Further files, such as '*.gguf'; can be repeated.")
    private List<String> include = List.of();

    @Override
    public Integer call() throws IOException {
        RepoId id = RepoId.parse(repo);
        if (revision != null) {
            if (repo.contains("@")) {
                throw new IllegalArgumentException("--revision " + revision + ": " + repo + " names one already");
            }
            id = new RepoId(id.name(), revision);
        }
        PrintWriter err = spec.commandLine().getErr();
        Path directory;
        try (DownloadProgress progress = new DownloadProgress(err)) {
            directory = HubModels.hub().pull(id, include, progress);
        }
        spec.commandLine().getOut().println("model: " + directory);
        return 0;
    }
}
