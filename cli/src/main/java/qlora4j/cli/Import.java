package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import qlora4j.gguf.GgufImport;
import qlora4j.tensor.DType;

/** {@code qlora import}: makes a model directory of a GGUF file. */
@Command(name = "import", sortOptions = false, description = {
        "Makes a Hugging Face model directory of a GGUF file, or a PEFT adapter of a GGUF adapter.",
        "Weights in F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K and Q6_K are read."})
final class Import implements Callable<Integer> {
    private static final Map<String, DType> TYPES = Map.of("float32", DType.F32, "bfloat16", DType.BF16, "float16",
            DType.F16);
    private static final double MB = 1e6;

    @Spec
    private CommandSpec spec;

    @Parameters(index = "0", paramLabel = "FILE.gguf", description = "The file to read.")
    private Path file;

    @Parameters(index = "1", paramLabel = "DIR", description = "The directory to write; it is made, and must not hold a"
            + " model.")
    private Path target;

    @Option(names = "--dtype", paramLabel = "TYPE",
            description = "float32, bfloat16 or float16 (default: the file's own"
                    + " where all matrices have the same of these, else float32, which holds dequantized weights exactly).")
    private String dtype;

    @Option(names = "--pre", paramLabel = "NAME", description = "How a byte-level tokenizer cuts texts into words, in"
            + " llama.cpp's names (default: what the file says).")
    private String pre;

    @Option(names = "--base", paramLabel = "DIR|OWNER/NAME",
            description = "Of an adapter: its base model's directory, or a model of the hub.")
    private Path base;

    @Override
    public Integer call() throws IOException {
        if (dtype != null && !TYPES.containsKey(dtype)) {
            throw new IllegalArgumentException("--dtype " + dtype + ": expected float32, bfloat16 or float16");
        }
        PrintWriter out = spec.commandLine().getOut();
        GgufImport.Report r = GgufImport.run(file, target,
                new GgufImport.Options(dtype == null ? null : TYPES.get(dtype), pre,
                        base == null ? null : HubModels.directory(base, spec.commandLine().getErr())));
        r.notes().forEach(Warnings::print);
        String sources = r.sources().entrySet().stream().sorted(Map.Entry.comparingByKey())
                .map(e -> e.getValue() + " " + e.getKey()).collect(Collectors.joining(", "));
        out.printf(Locale.ROOT, "%s: %d tensors (%s) as %s, %.1f MB%n", r.modelType(), r.tensors(), sources, r.dtype(),
                r.bytes() / MB);
        out.println((base == null ? "model: " : "adapter: ") + target);
        return 0;
    }
}
