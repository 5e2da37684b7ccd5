package qlora4j.train.data;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Collection;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/**
 * Where rows come from: files, which are read one after the other, and directories, of which a split is taken.
 *
 * @param paths   files and directories
 * @param config  the folder of a directory that is taken, or null where there is no choice
 * @param split   the split of a directory, or a part of it: {@code train[:100]}; for a file, only its part counts
 * @param flag    the flag that named the split, for messages
 * @param columns which columns are read as what
 */
public record DataSource(List<Path> paths, String config, String split, String flag, Columns columns) {
    private static final String WHOLE_FILE = "train";

    public DataSource {
        paths = List.copyOf(paths);
    }

    /**
     * What was read.
     *
     * @param rows  in the order of the paths
     * @param taken a line for each split and file of what was taken, for a person
     */
    public record Loaded(List<Row> rows, List<String> taken) {
    }

    /**
     * Reads the rows; at least one.
     *
     * @throws DataException where a file or row cannot be used; the message names it
     * @throws IOException   where a file cannot be read
     */
    public Loaded read() throws IOException {
        List<SplitSlice> parts = SplitSlice.parse(flag, split);
        List<Row> rows = new ArrayList<>();
        List<String> taken = new ArrayList<>();
        for (Path path : paths) {
            DataDirectory directory = Files.isDirectory(path) ? DataDirectory.open(path, config) : null;
            if (directory == null && config != null) {
                throw new DataException("--dataset-config " + config + ": " + path + " is no directory");
            }
            for (SplitSlice part : parts) {
                read(path, directory, part, rows, taken);
            }
        }
        if (rows.isEmpty()) {
            throw new DataException(flag + " " + split + " of " + paths + " holds no rows");
        }
        return new Loaded(List.copyOf(rows), taken);
    }

    private void read(Path path, DataDirectory directory, SplitSlice part, List<Row> rows, List<String> taken)
            throws IOException {
        if (directory == null && !part.name().equals(WHOLE_FILE)) {
            throw new DataException(flag + " " + split + ": " + path + " is one file, whose rows are the split train;"
                    + " other splits are files of a directory");
        }
        List<Path> files = directory == null ? List.of(path) : directory.split(flag, part.name());
        List<Row> all = new ArrayList<>();
        Set<String> formats = new LinkedHashSet<>();
        for (Path file : files) {
            DataFile read = DataFile.read(file);
            formats.add(read.format());
            read.rows().forEach(raw -> all.add(RowForms.row(raw, columns)));
        }
        List<Row> kept = part.of(all);
        rows.addAll(kept);
        String place = directory == null ? path.toString()
                : String.format(Locale.ROOT, "%s, split %s (of %s) in %d file%s", directory.root(), part.name(),
                        String.join(", ", directory.splits().keySet()), files.size(), files.size() == 1 ? "" : "s");
        taken.add(place + ": " + String.join(" and ", formats) + ", " + forms(kept)
                + (kept.size() == all.size() ? "" : String.format(Locale.ROOT, ", of %,d", all.size()))
                + (directory == null || directory.leftOut().isEmpty() ? ""
                        : "; not taken: the folders " + directory.leftOut() + ", for which there is --dataset-config"));
    }

    private static String forms(Collection<Row> rows) {
        Map<String, Integer> counts = new LinkedHashMap<>();
        rows.forEach(row -> counts.merge(RowForms.name(row), 1, Integer::sum));
        return counts.isEmpty() ? "no rows"
                : String.join(" and ", counts.entrySet().stream()
                        .map(e -> String.format(Locale.ROOT, "%,d rows of %s", e.getValue(), e.getKey())).toList());
    }
}
