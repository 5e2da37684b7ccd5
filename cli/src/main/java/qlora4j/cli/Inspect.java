package qlora4j.cli;

import java.io.IOException;
import java.io.PrintWriter;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.EnumMap;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;
import picocli.CommandLine.Spec;
import qlora4j.blockwise.Bnb4bit;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.gguf.GgmlType;
import qlora4j.gguf.Gguf;
import qlora4j.gguf.GgufTensor;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.PeftAdapter;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.safetensors.TensorInfo;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.train.pictures.Format;
import qlora4j.train.pictures.QuantizationPictures;
import qlora4j.train.pictures.QuantizationSurvey;

/** {@code qlora inspect}: what a checkpoint holds. Only headers and 4-bit constants are read. */
@Command(name = "inspect", description = {
        "Says what a model directory, an adapter directory, a safetensors file or index, or a GGUF file holds:",
        "its tensors, their sum by type, its 4-bit layers, its metadata."})
final class Inspect implements Callable<Integer> {
    private static final double MB = 1e6;

    @Spec
    private CommandSpec spec;

    @Parameters(paramLabel = "DIR|FILE|OWNER/NAME", description = "What to look into.")
    private Path path;

    @Option(names = "--plot", paramLabel = "OUT",
            description = "Write pictures (SVG) into this directory: NF4's values on the weights' own histogram, and the"
                    + " error of NF4, FP4 and int4 by layer, by module and by block size.")
    private Path plot;

    @Mixin
    private BackendOptions backend;

    private PrintWriter out;

    /** Tensors of a type. */
    private record Sum(int tensors, long elements, long bytes) {
        Sum plus(TensorInfo t) {
            return new Sum(tensors + 1, elements + t.elements(), bytes + t.bytes());
        }
    }

    @Override
    public Integer call() throws IOException {
        path = HubModels.directory(path, spec.commandLine().getErr());
        out = spec.commandLine().getOut();
        String file = String.valueOf(path.getFileName());
        if (file.endsWith(".json") && !file.endsWith(".index.json")) {
            throw new IllegalArgumentException(path + ": expected a directory, a .safetensors file or its"
                    + " .safetensors.index.json; give the directory that holds this file");
        }
        if (file.endsWith(".gguf")) {
            if (plot != null) {
                throw new IllegalArgumentException("--plot: " + path + " is a GGUF file; qlora import makes a model"
                        + " directory of it, which can be plotted");
            }
            gguf();
            return 0;
        }
        boolean adapter = Files.exists(path.resolve(PeftAdapter.CONFIG));
        if (adapter) {
            adapterConfig();
        }
        String stem = adapter ? PeftAdapter.WEIGHTS.substring(0, PeftAdapter.WEIGHTS.indexOf('.'))
                : SafetensorsModel.DEFAULT_STEM;
        try (SafetensorsModel view = SafetensorsModel.open(path, stem)) {
            if (plot != null) {
                pictures(view);
                return 0;
            }
            tensors(view);
            quantized(view);
            view.metadata().forEach((k, v) -> out.println("metadata: " + k + " = " + v));
        }
        return 0;
    }

    private void pictures(SafetensorsView view) throws IOException {
        try (Backend opened = backend.open(); Stream stream = opened.openStream()) {
            if (!opened.device().isHost()) {
                throw new IllegalArgumentException("--plot computes on the CPU: give --backend cpu");
            }
            QuantizationSurvey survey = QuantizationSurvey.of(view, stream, name -> {
                out.println("measured: " + name);
                out.flush();
            });
            for (Format f : Format.values()) {
                out.printf(Locale.ROOT, "%-4s RMS error %.4e, %.2f %% of the RMS weight (blocks of %d)%n", f,
                        QuantizationSurvey.rmse(survey.matrices(), f),
                        100 * QuantizationSurvey.relative(survey.matrices(), f), QuantizationSurvey.BLOCKSIZE);
            }
            new QuantizationPictures(survey).write(plot).forEach(file -> out.println("picture: " + file));
        }
    }

    private void gguf() throws IOException {
        try (Gguf gguf = Gguf.open(path)) {
            Map<GgmlType, Long> sums = new EnumMap<>(GgmlType.class);
            int width = gguf.tensors().keySet().stream().mapToInt(String::length).max().orElse(1);
            for (GgufTensor t : gguf.tensors().values()) {
                out.printf(Locale.ROOT, "%-" + width + "s  %-8s %-16s %,d bytes%n", t.name(), t.type(),
                        Arrays.toString(t.shape()).replace(" ", ""), t.bytes());
                sums.merge(t.type(), t.bytes(), Long::sum);
            }
            sums.forEach((type, bytes) -> out.printf(Locale.ROOT, "%s: %.1f MB%n", type, bytes / MB));
            out.printf(Locale.ROOT, "together: %,d tensors, GGUF version %d%n", gguf.tensors().size(), gguf.version());
            for (String key : gguf.metadata().keys()) {
                out.println("metadata: " + key + " = " + gguf.metadata().shown(key));
            }
        }
    }

    private void adapterConfig() throws IOException {
        try (PeftAdapter adapter = PeftAdapter.open(path)) {
            LoraConfig c = adapter.config();
            out.println("LoRA adapter: r " + c.rank() + ", alpha " + c.alpha() + ", dropout " + c.dropout()
                    + ", targets " + c.targets() + (c.rsLora() ? ", rank-stabilized" : "") + (c.dora() ? ", DoRA" : "")
                    + (c.patterns().isEmpty() ? ""
                            : ", ranks " + c.patterns().rank() + ", alphas "
                                    + c.patterns().alpha())
                    + (c.bias() == LoraConfig.Bias.NONE ? "" : ", bias " + c.bias())
                    + (c.modulesToSave().isEmpty() ? "" : ", modules to save " + c.modulesToSave())
                    + (c.baseModelName() == null ? "" : ", base model " + c.baseModelName()));
        }
    }

    private void tensors(SafetensorsView view) {
        int width = view.names().stream().mapToInt(String::length).max().orElse(1);
        Map<DType, Sum> sums = new EnumMap<>(DType.class);
        for (String name : view.names()) {
            TensorInfo t = view.info(name);
            out.printf(Locale.ROOT, "%-" + width + "s  %-8s %-16s %,d bytes%n", name, t.dtype(),
                    Arrays.toString(t.shape()).replace(" ", ""), t.bytes());
            sums.merge(t.dtype(), new Sum(0, 0, 0).plus(t), (sum, _) -> sum.plus(t));
        }
        sums.forEach((type, sum) -> out.printf(Locale.ROOT, "%s: %,d tensors, %,d elements, %.1f MB%n", type,
                sum.tensors, sum.elements, sum.bytes / MB));
        out.printf(Locale.ROOT, "together: %,d tensors, %.1f MB%n", view.names().size(),
                sums.values().stream().mapToLong(Sum::bytes).sum() / MB);
    }

    private void quantized(SafetensorsView view) throws IOException {
        int layers = 0;
        long parameters = 0;
        long bytes = 0;
        for (String name : view.names()) {
            if (!Bnb4bit.contains(view, name)) {
                continue;
            }
            QuantizedTensor w = Bnb4bit.read(view, name);
            out.printf(Locale.ROOT, "4-bit: %s  %s, %.3f bits/param%n", name, w, w.bitsPerParameter());
            layers++;
            parameters += w.size();
            bytes += w.bytes();
        }
        if (layers > 0) {
            out.printf(Locale.ROOT, "4-bit together: %,d layers, %,d parameters, %.3f bits/param%n", layers, parameters,
                    8.0 * bytes / parameters);
        }
    }
}
