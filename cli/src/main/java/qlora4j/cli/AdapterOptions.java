package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import picocli.CommandLine.Option;
import qlora4j.model.CausalLm;

/** Adapters by name, and which of them is used. */
final class AdapterOptions {
    @Option(names = "--adapter", paramLabel = "NAME=DIR",
            description = "A PEFT adapter and what to call it; can be repeated. DIR alone is called as its last part.")
    private List<String> adapters = List.of();

    @Option(names = "--use", paramLabel = "NAME",
            description = "The adapter to use, or base for none (default: the last).")
    private String use;

    /** The adapters' places by name, in the order of the flags. */
    Map<String, Path> named() {
        return NamedAdapters.parse(adapters);
    }

    /** The base and all adapters. */
    List<String> names() {
        List<String> names = new ArrayList<>(List.of(CausalLm.BASE));
        names.addAll(named().keySet());
        return names;
    }

    /** Whether {@code --use} is given. */
    boolean chosen() {
        return use != null;
    }

    /** The one to use. */
    String name() {
        List<String> names = names();
        if (use != null && !names.contains(use)) {
            throw new IllegalArgumentException("--use " + use + ": there is no such adapter; there are " + names);
        }
        return use == null ? names.getLast() : use;
    }

    /** Loads all adapters. */
    void load(CausalLm lm, PrintWriter err) throws IOException {
        NamedAdapters.load(named(), lm, err);
    }
}
