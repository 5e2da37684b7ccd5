package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.model.CausalLm;

/** Adapters as {@code --adapter NAME=DIR} names them. */
final class NamedAdapters {
    private NamedAdapters() {
    }

    /** Names and directories; a directory alone is called as its last part. */
    static Map<String, Path> parse(List<String> adapters) {
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
    static void load(Map<String, Path> named, CausalLm lm, PrintWriter err) throws IOException {
        for (Map.Entry<String, Path> e : named.entrySet()) {
            lm.load(e.getKey(), HubModels.directory(e.getValue(), err));
        }
    }
}
