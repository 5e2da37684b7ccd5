package qlora4j.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;

/** A training run's {@code --output}: nothing in it is lost unless that was asked for. */
record OutputDirectory(Path path) {
    /** What a run writes: the adapter, metrics, checkpoints, and checkpoints that were being written. */
    private static final String WRITTEN = "adapter_config\\.json|adapter_model\\.safetensors|metrics\\.jsonl"
            + "|checkpoint-\\d+|\\.unfinished-\\d+";

    /**
     * Makes the directory and sees that a run may write there.
     *
     * @param resume whether the run goes on with what is there
     * @param overwrite whether what an earlier run wrote is deleted
     */
    void prepare(boolean resume, boolean overwrite) throws IOException {
        Files.createDirectories(path);
        if (resume) {
            return;
        }
        List<Path> there;
        try (Stream<Path> files = Files.list(path)) {
            there = files.filter(f -> f.getFileName().toString().matches(WRITTEN)).sorted().toList();
        }
        if (overwrite) {
            for (Path file : there) {
                delete(file);
            }
        } else if (!there.isEmpty()) {
            throw new IllegalArgumentException("--output " + path + ": an earlier run left "
                    + there.getFirst().getFileName()
                    + " there; give another directory, --resume to go on with that run,"
                    + " or --overwrite-output-dir to delete it");
        }
    }

    private static void delete(Path root) throws IOException {
        List<Path> deepestFirst;
        try (Stream<Path> files = Files.walk(root)) {
            deepestFirst = files.sorted(Comparator.reverseOrder()).toList();
        }
        for (Path file : deepestFirst) {
            Files.delete(file);
        }
    }
}
