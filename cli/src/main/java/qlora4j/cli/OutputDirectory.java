package qlora4j.cli;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;
import qlora4j.train.report.EventFile;

/** A training run's {@code --output}: nothing in it is lost unless that was asked for. */
record OutputDirectory(Path path) {
    /** What a run writes: the adapter, metrics, checkpoints, and checkpoints that were being written. */
    private static final String WRITTEN = "adapter_config\\.json|adapter_model\\.safetensors|metrics\\.jsonl"
            + "|run\\.json|report\\.html|checkpoint-\\d+|\\.unfinished-\\d+";

    /**
     * Makes the directory and sees that a run may write there.
     *
     * @param mayHold whether what an earlier run wrote may be there, to go on with or to be cleared
     */
    void prepare(boolean mayHold) throws IOException {
        Files.createDirectories(path);
        List<Path> there = written();
        if (!mayHold && !there.isEmpty()) {
            throw new IllegalArgumentException("--output " + path + ": an earlier run left "
                    + there.getFirst().getFileName()
                    + " there; give another directory, --resume to go on with that run,"
                    + " or --overwrite-output-dir to delete it");
        }
    }

    /** Deletes what an earlier run wrote. */
    void clear() throws IOException {
        for (Path file : written()) {
            delete(file);
        }
        if (Files.isDirectory(runs())) {
            clearEvents();
        }
    }

    /** Where a run's event files go, each run in a directory of its own, unless another place is asked for. */
    Path runs() {
        return path.resolve("runs");
    }

    /** Deletes event files and the directories that are empty then: others may have put theirs beside them. */
    private void clearEvents() throws IOException {
        try (Stream<Path> files = Files.walk(runs())) {
            for (Path file : files.sorted(Comparator.reverseOrder()).toList()) {
                if (EventFile.isName(file.getFileName().toString()) || Files.isDirectory(file) && isEmpty(file)) {
                    Files.delete(file);
                }
            }
        }
    }

    private static boolean isEmpty(Path directory) throws IOException {
        try (Stream<Path> files = Files.list(directory)) {
            return files.findAny().isEmpty();
        }
    }

    private List<Path> written() throws IOException {
        try (Stream<Path> files = Files.list(path)) {
            return files.filter(f -> f.getFileName().toString().matches(WRITTEN)).sorted().toList();
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
