package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import qlora4j.model.CausalLm;
import qlora4j.model.ModelDirectory;

/** Adapters by name, and which of them is used. */
final class AdapterOptions {
    @Mixin
    private NamedAdapters adapters;

    @Option(names = "--use", paramLabel = "NAME",
            description = "The adapter to use, or base for none (default: the last).")
    private String use;

    /** The base and all adapters. */
    List<String> names() {
        List<String> names = new ArrayList<>(List.of(CausalLm.BASE));
        names.addAll(adapters.named().keySet());
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

    /** See {@link NamedAdapters#tokensOf}. */
    ModelDirectory tokensOf(String name, Path base, PrintWriter err) throws IOException {
        return adapters.tokensOf(name, base, err);
    }

    /** Loads all adapters. */
    void load(CausalLm lm, PrintWriter err) throws IOException {
        adapters.load(lm, err);
    }
}
