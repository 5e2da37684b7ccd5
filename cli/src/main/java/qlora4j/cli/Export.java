package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import qlora4j.gguf.AdapterExport;
import qlora4j.gguf.GgmlType;
import qlora4j.gguf.GgufExport;
import qlora4j.lora.PeftAdapter;
import qlora4j.model.ModelDirectory;
import qlora4j.tensor.Backend;

/** {@code qlora export}: makes a GGUF file of a model directory or an adapter. */
@Command(name = "export", sortOptions = false, description = {
        "Makes a GGUF file, which llama.cpp runs, of a model directory or of a PEFT adapter's directory."})
final class Export implements Callable<Integer> {
    private static final double MB = 1e6;

    @Spec
    private CommandSpec spec;

    @Parameters(index = "0", paramLabel = "DIR|OWNER/NAME", description = "The model or the adapter.")
    private Path source;

    @Parameters(index = "1", paramLabel = "FILE.gguf", description = "The file to write; it must not exist.")
    private Path target;

    @Option(names = "--outtype", paramLabel = "TYPE", description = "Of a model's matrices: f32, f16, bf16 or q8_0"
            + " (default: f16). Of an adapter: f32, f16 or bf16 (default: f32).")
    private String type;

    @Option(names = "--base", paramLabel = "DIR|OWNER/NAME",
            description = "Of an adapter: its base model's directory (default: the"
                    + " one that its configuration names).")
    private Path base;

    @Option(names = "--pre", paramLabel = "NAME",
            description = "What llama.cpp calls the way the tokenizer cuts texts into"
                    + " words, where it is not recognized: tokenizer.ggml.pre.")
    private String pre;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        source = HubModels.directory(source, spec.commandLine().getErr());
        boolean adapter = Files.exists(source.resolve(PeftAdapter.CONFIG));
        GgmlType as = type(type == null ? adapter ? "f32" : "f16" : type);
        GgufExport.Report r;
        if (adapter) {
            r = AdapterExport.run(source, base(), target, as);
        } else {
            if (base != null) {
                throw new IllegalArgumentException("--base " + base + ": " + source + " is no adapter");
            }
            try (ModelDirectory model = ModelDirectory.open(source); Backend opened = backend.open()) {
                r = GgufExport.model(model, target, as, pre, opened);
            }
        }
        r.notes().forEach(Warnings::print);
        out.printf(Locale.ROOT, "%s%s: %d tensors as %s, %.1f MB%n", r.architecture(), adapter ? " adapter" : "",
                r.tensors(), as, r.bytes() / MB);
        out.println("file: " + target);
        return 0;
    }

    private static GgmlType type(String name) {
        for (GgmlType t : List.of(GgmlType.F32, GgmlType.F16, GgmlType.BF16, GgmlType.Q8_0)) {
            if (t.name().equalsIgnoreCase(name)) {
                return t;
            }
        }
        throw new IllegalArgumentException("--outtype " + name + ": expected f32, f16, bf16 or q8_0");
    }

    private Path base() throws IOException {
        if (base != null) {
            return HubModels.directory(base, spec.commandLine().getErr());
        }
        try (PeftAdapter adapter = PeftAdapter.open(source)) {
            String named = adapter.config().baseModelName();
            if (named == null || !Files.isDirectory(Path.of(named)) && HubModels.repo(Path.of(named)).isEmpty()) {
                throw new IllegalArgumentException(source + ": its configuration names the base model " + named
                        + ", which is no directory here; give it with --base");
            }
            return HubModels.directory(Path.of(named), spec.commandLine().getErr());
        }
    }
}
