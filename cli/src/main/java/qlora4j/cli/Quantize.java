package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.model.CheckpointQuantizer;
import qlora4j.model.ModelDirectory;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;

/** {@code qlora quantize}: writes a model directory in 4 bits. */
@Command(name = "quantize", sortOptions = false, description = {
        "Writes a model directory whose linear layers are in 4 bits, in the layout of bitsandbytes, which transformers"
                + " loads.",
        "Norms, embeddings and the head stay dense."})
final class Quantize implements Callable<Integer> {
    private static final double MB = 1e6;

    @Spec
    private CommandSpec spec;

    @Option(names = "--model", required = true, paramLabel = "DIR|OWNER/NAME",
            description = "The dense model: a Hugging Face model directory, or a model of the hub.")
    private Path model;

    @Option(names = "--output", required = true, paramLabel = "DIR",
            description = "The directory to write; it is made, and must not hold a model.")
    private Path output;

    @Option(names = "--quant-type", paramLabel = "TYPE", defaultValue = "nf4",
            description = "nf4 or fp4 (default: ${DEFAULT-VALUE}).")
    private String type;

    @Option(names = "--blocksize", paramLabel = "N", defaultValue = "64",
            description = "Weights that share a constant: a power of two, 32 to 4096 (default: ${DEFAULT-VALUE}).")
    private int blocksize;

    @Option(names = "--no-double-quant", description = "Leave the constants in float32.")
    private boolean plain;

    @Option(names = "--dtype", paramLabel = "TYPE", description = "Cast weights to float32, bfloat16 or float16 first;"
            + " what stays dense is stored so (default: the model's own).")
    private String dtype;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        DType stored = StoredType.of(dtype);
        if (!type.equals(QuantType.NF4.toString()) && !type.equals(QuantType.FP4.toString())) {
            throw new IllegalArgumentException("--quant-type " + type + ": expected nf4 or fp4");
        }
        QuantConfig config = config();
        try (ModelDirectory source = ModelDirectory.open(HubModels.directory(model, spec.commandLine().getErr()));
                Backend opened = backend.open()) {
            CheckpointQuantizer.Report r = CheckpointQuantizer.quantize(source, output, config,
                    stored, opened, layer -> {
                        out.printf(Locale.ROOT, "%s: %.3f bits/param, mean error %.3e, max %.3e%n", layer.name(),
                                8.0 * layer.bytes() / layer.parameters(), layer.meanError(), layer.maxError());
                        out.flush();
                    });
            out.printf(Locale.ROOT, "%.1f MB before, %.1f MB after%n", r.bytesBefore() / MB, r.bytesAfter() / MB);
            out.printf(Locale.ROOT, "%,d parameters in %s: %.3f bits/param%n", r.parameters(), config.type(),
                    r.bitsPerParameter());
            out.printf(Locale.ROOT, "mean absolute error %.3e (worst layer: %.3e, %s)%n", r.meanError(),
                    r.worst().meanError(), r.worst().name());
            out.printf(Locale.ROOT, "largest error %.3e (%s)%n", r.largest().maxError(), r.largest().name());
        }
        out.println("model: " + output);
        return 0;
    }

    private QuantConfig config() {
        try {
            return new QuantConfig(QuantType.named(type), blocksize, !plain);
        } catch (IllegalArgumentException e) {
            throw new IllegalArgumentException("--" + e.getMessage(), e);
        }
    }
}
