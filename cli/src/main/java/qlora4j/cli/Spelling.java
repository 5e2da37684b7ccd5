package qlora4j.cli;

import java.util.HashSet;
import java.util.Set;
import picocli.CommandLine;

/** Accepts {@code --learning_rate}, as Hugging Face's tools write it, for {@code --learning-rate}. */
final class Spelling {
    private Spelling() {
    }

    /** The arguments with underscores in the names of flags, and nowhere else, replaced. */
    static String[] withHyphens(CommandLine line, String... args) {
        Set<String> known = new HashSet<>();
        line.getSubcommands().values().forEach(c -> known.addAll(c.getCommandSpec().optionsMap().keySet()));
        String[] spelled = args.clone();
        for (int i = 0; i < spelled.length && !spelled[i].equals("--"); i++) {
            int end = spelled[i].indexOf('=') < 0 ? spelled[i].length() : spelled[i].indexOf('=');
            String name = spelled[i].substring(0, end).replace('_', '-');
            if (known.contains(name)) {
                spelled[i] = name + spelled[i].substring(end);
            }
        }
        return spelled;
    }
}
