package qlora4j.train.data;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;

/**
 * The files of a data set's directory by split, found as the library datasets finds them: shards
 * {@code SPLIT-00000-of-00003.parquet}; else a word for a split in the name of the file or of a folder above it; else
 * all files are {@code train}. A configuration is a folder of the directory.
 *
 * @param splits   the files of each split in the order of their names
 * @param leftOut  configurations whose files are not taken, since others lie in no configuration
 */
record DataDirectory(Path root, Map<String, List<Path>> splits, Set<String> leftOut) {
    private static final String EXTENSION = "(?i)\\.(jsonl?|ndjson|csv|tsv|parquet)(\\.gz)?$";
    private static final Pattern DATA = Pattern.compile(".+" + EXTENSION);
    private static final Pattern ARROW = Pattern.compile("(?i).+\\.arrow");
    private static final Set<String> DESCRIPTIONS = Set.of("dataset_info.json", "dataset_infos.json", "state.json",
            "dataset_dict.json", "config.json");
    private static final Pattern SHARD = Pattern.compile("(.+)-(\\d{5})-of-(\\d{5})\\..+");
    private static final Map<String, Pattern> WORDS = words();
    private static final String DEFAULT_SPLIT = "train";
    private static final String DATA_FOLDER = "data";
    private static final int DEPTH = 6;

    private static Map<String, Pattern> words() {
        Map<String, Pattern> words = new LinkedHashMap<>();
        Map.of("train", "train|training", "validation", "validation|valid|dev|val", "test",
                "test|testing|eval|evaluation").entrySet().stream().sorted(Map.Entry.comparingByKey())
                .forEach(e -> words.put(e.getKey(),
                        Pattern.compile("(?i)(?:^|[^a-z])(?:" + e.getValue() + ")(?:$|[^a-z])")));
        return words;
    }

    /**
     * Looks through a directory.
     *
     * @param config the folder to take, or null where there is only one choice
     * @throws DataException where there is none, or a shard is missing
     */
    static DataDirectory open(Path directory, String config) throws IOException {
        List<Path> all = new ArrayList<>();
        boolean arrow = false;
        try (Stream<Path> walk = Files.walk(directory, DEPTH)) {
            for (Path file : walk.filter(Files::isRegularFile).sorted().toList()) {
                Path inside = directory.relativize(file);
                arrow |= ARROW.matcher(file.getFileName().toString()).matches();
                if (!hidden(inside) && DATA.matcher(file.getFileName().toString()).matches()
                        && !DESCRIPTIONS.contains(file.getFileName().toString())) {
                    all.add(inside);
                }
            }
        }
        if (all.isEmpty()) {
            throw new DataException(directory + ": holds no data files (json, jsonl, csv, tsv, parquet)"
                    + (arrow ? "; Arrow files, as save_to_disk writes them, are not supported: write them with the data"
                            + " set's to_parquet or to_json" : ""));
        }
        Path root = root(directory, all, config);
        Map<String, List<Path>> splits = new TreeMap<>();
        Set<String> leftOut = new TreeSet<>();
        for (Path file : all) {
            Path whole = directory.resolve(file);
            if (root.equals(directory) ? configOf(file) == null : whole.startsWith(root)) {
                splits.computeIfAbsent(split(root.relativize(whole)), _ -> new ArrayList<>()).add(whole);
            } else if (config == null) {
                leftOut.add(configOf(file));
            }
        }
        splits.values().forEach(DataDirectory::checkShards);
        return new DataDirectory(root, splits, leftOut);
    }

    private static boolean hidden(Path inside) {
        for (Path part : inside) {
            if (part.toString().startsWith(".") || part.toString().startsWith("__")) {
                return true;
            }
        }
        return false;
    }

    /** The configuration's folder, or the directory itself where files of no configuration lie in it. */
    private static Path root(Path directory, List<Path> all, String config) {
        Set<String> configs = new TreeSet<>();
        all.forEach(file -> {
            if (configOf(file) != null) {
                configs.add(configOf(file));
            }
        });
        if (config != null) {
            if (!configs.contains(config)) {
                throw new DataException("--dataset-config " + config + ": " + directory + " has "
                        + (configs.isEmpty() ? "no folders of configurations" : "the configurations " + configs));
            }
            return directory.resolve(config);
        }
        if (all.stream().anyMatch(file -> configOf(file) == null)) {
            return directory;
        }
        if (configs.size() > 1) {
            throw new DataException(directory + ": has several configurations, " + configs
                    + "; give --dataset-config with one of them");
        }
        return directory.resolve(configs.iterator().next());
    }

    /** The first folder of a path, unless it stands for a split or for all data. */
    private static String configOf(Path inside) {
        if (inside.getNameCount() == 1) {
            return null;
        }
        String folder = inside.getName(0).toString();
        return folder.equals(DATA_FOLDER) || word(folder) != null ? null : folder;
    }

    private static String split(Path inside) {
        Matcher shard = SHARD.matcher(inside.getFileName().toString());
        if (shard.matches()) {
            return shard.group(1);
        }
        String found = word(inside.getFileName().toString().replaceFirst(EXTENSION, ""));
        for (Path folder = inside.getParent(); found == null && folder != null; folder = folder.getParent()) {
            found = word(folder.getFileName().toString());
        }
        return found == null ? DEFAULT_SPLIT : found;
    }

    private static String word(String text) {
        return WORDS.entrySet().stream().filter(e -> e.getValue().matcher(text).find()).map(Map.Entry::getKey)
                .findFirst().orElse(null);
    }

    private static void checkShards(List<Path> files) {
        Map<String, Set<Integer>> seen = new TreeMap<>();
        for (Path file : files) {
            Matcher m = SHARD.matcher(file.getFileName().toString());
            if (m.matches()) {
                seen.computeIfAbsent(file.resolveSibling(m.group(1)) + "/" + m.group(3), _ -> new TreeSet<>())
                        .add(Integer.parseInt(m.group(2)));
            }
        }
        seen.forEach((name, numbers) -> {
            int of = Integer.parseInt(name.substring(name.lastIndexOf('/') + 1));
            for (int i = 0; i < of; i++) {
                if (!numbers.contains(i)) {
                    throw new DataException(String.format(Locale.ROOT, "%s: shard %05d of %05d is missing; the data set"
                            + " is not complete", name.substring(0, name.lastIndexOf('/')), i, of));
                }
            }
        });
    }

    /** The files of a split. */
    List<Path> split(String flag, String name) {
        List<Path> files = splits.get(name);
        if (files == null) {
            throw new DataException(flag + " " + name + ": " + root + " has the splits " + splits.keySet());
        }
        return files;
    }
}
