package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import picocli.CommandLine.Option;
import qlora4j.model.CausalLm;
import qlora4j.model.ModelDirectory;

/** Adapters as {@code --adapter NAME=DIR} names them. */
final class NamedAdapters {
    @Option(names = "--adapter", paramLabel = "NAME=DIR",
            description = "A PEFT adapter and what to call it; can be repeated. DIR alone is called as its last part.")
    private List<String> adapters = List.of();

    /** The adapters' places by name, in the order of the flags. */
    Map<String, Path> named() {
        Map<String, Path> named = new LinkedHashMap<>();
        for (String adapter : adapters) {
            int equals = adapter.indexOf('=');
            Path path = Path.of(adapter.substring(equals + 1));
            String name = equals > 0 ? adapter.substring(0, equals)
                    : String.valueOf(path.toAbsolutePath().normalize().getFileName());
            if (equals == 0 || name.equals(CausalLm.BASE) || named.putIfAbsent(name, path) != null) {
                throw new IllegalArgumentException(
                        "--adapter " + adapter + ": expected NAME=DIR, each name once and not " + CausalLm.BASE);
            }
        }
        return named;
    }

    /** Loads them into a model. */
    void load(CausalLm lm, PrintWriter err) throws IOException {
        for (Map.Entry<String, Path> e : named().entrySet()) {
            lm.load(e.getKey(), HubModels.directory(e.getValue(), err));
        }
    }

    /** The base model's directory with the tokenizer of an adapter that has its own; the caller closes it. */
    ModelDirectory tokensOf(String name, Path base, PrintWriter err) throws IOException {
        ModelDirectory files = ModelDirectory.open(base);
        try {
            files.useTokenizer(HubModels.directory(named().get(name), err));
            return files;
        } catch (IOException | RuntimeException e) {
            files.close();
            throw e;
        }
    }
}
