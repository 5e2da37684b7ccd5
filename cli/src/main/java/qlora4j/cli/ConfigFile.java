package qlora4j.cli;

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.dataformat.yaml.YAMLFactory;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import picocli.CommandLine;
import picocli.CommandLine.Model.OptionSpec;

/**
 * Flags from a YAML file: {@code --config FILE.yaml}. Its keys are a command's flags, with hyphens or underscores and
 * without the hyphens in front; values are texts, numbers, {@code true} and {@code false}, lists, and mappings for flags
 * such as {@code --rank-pattern}. A flag on the command line wins over the file.
 */
final class ConfigFile {
    static final String FLAG = "--config";
    private static final YAMLFactory YAML =
            YAMLFactory.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION).build();

    private final Path file;
    private final CommandLine command;
    private final List<String> flags = new ArrayList<>();

    private ConfigFile(Path file, CommandLine command) {
        this.file = file;
        this.command = command;
    }

    /**
     * The arguments with the flags of the file that {@code --config} names put behind the command's name; as they are
     * where there is no such flag, or no command.
     *
     * @throws IllegalArgumentException if the file holds a key that is no flag of the command, or a value that cannot be
     *         one
     * @throws IOException if the file cannot be read or is no YAML
     */
    static String[] expand(CommandLine line, String... arguments) throws IOException {
        int at = 0;
        while (at < arguments.length && !line.getSubcommands().containsKey(arguments[at])) {
            at++;
        }
        String name = named(arguments);
        if (name == null || at == arguments.length) {
            return arguments;
        }
        ConfigFile config = new ConfigFile(Path.of(name), line.getSubcommands().get(arguments[at]));
        config.read(given(arguments));
        List<String> all = new ArrayList<>(Arrays.asList(arguments).subList(0, at + 1));
        all.addAll(config.flags);
        all.addAll(Arrays.asList(arguments).subList(at + 1, arguments.length));
        return all.toArray(String[]::new);
    }

    private static String named(String... arguments) {
        String name = null;
        for (int i = 0; i < arguments.length && !arguments[i].equals("--"); i++) {
            if (arguments[i].startsWith(FLAG + "=")) {
                name = arguments[i].substring(FLAG.length() + 1);
            } else if (arguments[i].equals(FLAG) && i + 1 < arguments.length) {
                name = arguments[i + 1];
            }
        }
        return name;
    }

    /** The names of the flags on the command line. */
    private static Set<String> given(String... arguments) {
        Set<String> names = new HashSet<>();
        for (int i = 0; i < arguments.length && !arguments[i].equals("--"); i++) {
            int equals = arguments[i].indexOf('=');
            names.add(equals < 0 ? arguments[i] : arguments[i].substring(0, equals));
        }
        return names;
    }

    private void read(Set<String> given) throws IOException {
        String text;
        try {
            text = Files.readString(file);
        } catch (java.nio.charset.CharacterCodingException e) {
            throw new IllegalArgumentException(FLAG + " " + file + ": it is not UTF-8 text", e);
        }
        try (JsonParser parser = YAML.createParser(text)) {
            JsonToken first = parser.nextToken();
            if (first == null) {
                return;
            }
            if (first != JsonToken.START_OBJECT) {
                throw error(parser, "a mapping of flags to values is expected, such as \"learning_rate: 2e-4\"");
            }
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                entry(parser, given);
            }
        } catch (JsonProcessingException e) {
            int at = e.getLocation() == null ? 0 : e.getLocation().getLineNr();
            throw new IOException(file + (at > 0 ? ", line " + at : "") + ": not valid YAML: "
                    + e.getOriginalMessage().lines().findFirst().orElse(""), e);
        }
    }

    private void entry(JsonParser parser, Set<String> given) throws IOException {
        String key = parser.currentName();
        String name = "--" + key.replace('_', '-').replaceFirst("^-+", "");
        OptionSpec option = command.getCommandSpec().optionsMap().get(name);
        if (option == null || name.equals(FLAG)) {
            throw error(parser, key + " is no flag of " + command.getCommandName() + "; the nearest is "
                    + nearest(name, command.getCommandSpec().optionsMap().keySet()).substring(2));
        }
        List<String> values = values(parser, key);
        if (Arrays.stream(option.names()).anyMatch(given::contains)) {
            return;
        }
        if (option.arity().max() == 0) {
            if (values.equals(List.of("true"))) {
                flags.add(name);
            } else if (!values.equals(List.of("false"))) {
                throw error(parser, key + " is true or false, not " + String.join(", ", values));
            }
        } else if (!option.splitRegex().isEmpty()) {
            flags.add(name + "=" + String.join(option.splitRegex(), values));
        } else if (option.isMultiValue() || values.size() == 1) {
            values.forEach(v -> flags.add(name + "=" + v));
        } else {
            throw error(parser, key + " takes one value, not " + values.size());
        }
    }

    /** The values of a key: one, those of a list, or the {@code name=value} of a mapping. */
    private List<String> values(JsonParser parser, String key) throws IOException {
        JsonToken token = parser.nextToken();
        List<String> values = new ArrayList<>();
        if (token == JsonToken.START_ARRAY) {
            while (parser.nextToken() != JsonToken.END_ARRAY) {
                values.add(scalar(parser, key));
            }
        } else if (token == JsonToken.START_OBJECT) {
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String name = parser.currentName();
                parser.nextToken();
                values.add(name + "=" + scalar(parser, key));
            }
        } else {
            values.add(scalar(parser, key));
        }
        return values;
    }

    private String scalar(JsonParser parser, String key) throws IOException {
        JsonToken token = parser.currentToken();
        if (token == null || !token.isScalarValue()) {
            throw error(parser, key + " has a value that no flag can have");
        }
        String text = parser.getText();
        if (token == JsonToken.VALUE_NULL || text.isEmpty()) {
            throw error(parser, key + " has no value; leave the key out, or give it one");
        }
        return text.equals(".inf") ? "Infinity" : text;
    }

    private IllegalArgumentException error(JsonParser parser, String problem) {
        return new IllegalArgumentException(file + ", line " + parser.currentTokenLocation().getLineNr() + ": "
                + problem);
    }

    /** The name that takes the fewest changes of letters (Levenshtein 1966). */
    static String nearest(String name, Collection<String> names) {
        String best = "";
        int least = Integer.MAX_VALUE;
        for (String other : new java.util.TreeSet<>(names)) {
            int d = distance(name, other);
            if (other.startsWith("--") && d < least) {
                least = d;
                best = other;
            }
        }
        return best;
    }

    private static int distance(String a, String b) {
        int[] row = new int[b.length() + 1];
        Arrays.setAll(row, j -> j);
        for (int i = 1; i <= a.length(); i++) {
            int diagonal = row[0];
            row[0] = i;
            for (int j = 1; j <= b.length(); j++) {
                int change = diagonal + (a.charAt(i - 1) == b.charAt(j - 1) ? 0 : 1);
                diagonal = row[j];
                row[j] = Math.min(change, Math.min(row[j], row[j - 1]) + 1);
            }
        }
        return row[b.length()];
    }
}
