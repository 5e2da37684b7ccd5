package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;
import qlora4j.model.ModelDirectory;
import qlora4j.model.ModelMerger;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;

/** {@code qlora merge}: an adapter into a model. */
@Command(name = "merge", sortOptions = false, description = {
        "Merges an adapter into a model and writes the result as a model directory.",
        "First it prints for each layer how much of what the adapter adds is lost when the sum is stored (error/delta);"
                + " then it writes."})
final class Merge implements Callable<Integer> {
    /** From here on a requantized model is no longer the adapter's. */
    private static final double MUCH = 0.5;

    @Spec
    private CommandSpec spec;

    @Option(names = "--model", required = true, paramLabel = "DIR|OWNER/NAME",
            description = "The base model: a Hugging Face model directory, dense or 4-bit, or a model of the hub.")
    private Path model;

    @Option(names = "--adapter", required = true, paramLabel = "DIR|OWNER/NAME", description = "The PEFT adapter.")
    private Path adapter;

    @Option(names = "--output", required = true, paramLabel = "DIR",
            description = "The directory to write; it is made, and must not hold a model.")
    private Path output;

    @Option(names = "--into", paramLabel = "WHAT",
            description = "dense: the model's own weights; dequantized: their 4-bit values, which QLoRA trains on;"
                    + " requantized: the same, and 4 bits again (default: dense, of a 4-bit model dequantized).")
    private ModelMerger.Into into;

    @Option(names = "--dtype", paramLabel = "TYPE",
            description = "bfloat16, float16 or float32 (default: the model's own where it has 16 bits, else bfloat16).")
    private String dtype;

    @Mixin
    private BackendOptions backend;

    @Override
    public Integer call() throws IOException {
        PrintWriter out = spec.commandLine().getOut();
        DType stored = StoredType.of(dtype);
        try (ModelDirectory source = ModelDirectory.open(HubModels.directory(model, spec.commandLine().getErr()));
                Backend opened = backend.open();
                ModelMerger merger = new ModelMerger(source, HubModels.directory(adapter, spec.commandLine().getErr()),
                        into, stored,
                        opened)) {
            merger.doubt().ifPresent(Warnings::print);
            List<ModelMerger.Layer> layers = merger.measure(layer -> {
                out.printf(Locale.ROOT, "%s: delta %.3e, error %.3e, error/delta %.4f%n", layer.name(), layer.delta(),
                        layer.error(), layer.ratio());
                out.flush();
            });
            ModelMerger.Layer worst = layers.stream().max(Comparator.comparingDouble(ModelMerger.Layer::ratio))
                    .orElseThrow();
            double mean = layers.stream().mapToDouble(ModelMerger.Layer::ratio).average().orElseThrow();
            out.printf(Locale.ROOT, "into %s weights: error/delta %.4f in the mean, %.4f at worst (%s)%n",
                    merger.into(), mean, worst.ratio(), worst.name());
            if (!(worst.ratio() <= MUCH)) {
                Warnings.print("storing the sum loses as much as half of what the adapter adds, or more, in "
                        + worst.name() + (merger.into() == ModelMerger.Into.REQUANTIZED
                                ? ": keep the adapter beside the 4-bit model, or merge into 16 bits"
                                : ": the adapter may change nothing there; see the delta"));
            }
            merger.write(output);
        }
        out.println("model: " + output);
        return 0;
    }
}
