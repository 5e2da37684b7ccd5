package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import qlora4j.lora.Dropout;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.HostLayerInputs;
import qlora4j.model.LayerInputStore;
import qlora4j.model.TokenBatch;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamW;
import qlora4j.optim.HostPageStore;
import qlora4j.optim.PageStore;
import qlora4j.optim.Residency;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Training on a GPU: the optimizer's bits at every residency, and loss curves beside the CPU's. */
@Tag("gpu")
class TrainingGpuTest {
    private static final int PARAMETERS = 100_003;
    private static final int UPDATES = 5;
    private static final int STEPS = 200;
    private static final int SEQUENCES = 4;
    private static final int LENGTH = 24;
    /**
     * The loss of each step, relative to the CPU's. Gradients differ by rounding, 1e-6 of them; Adam divides them by their
     * root mean square, so weights differ by as much of a step, and the differences add over 200 steps: 2e-4 if all
     * went one way. On an H100 the largest was 6e-7.
     */
    private static final double F32_BAND = 1e-4;
    /**
     * Means over ten steps in bfloat16, whose gradients are off by some per cent each step but in no common direction, of
     * the first loss. On an H100 the largest was 1.3e-3, on the CPU in bfloat16 2e-3.
     */
    private static final double BF16_BAND = 0.01;
    private static final Backend CPU = Backends.open(Backend.CPU);
    private static final Backend CUDA = Gpu.open();

    @TempDir
    private static Path directory;

    @AfterAll
    static void close() {
        CPU.close();
        CUDA.close();
    }

    /** Parameters and both states after some updates. */
    private static List<Tensor> train(Backend backend, AdamHyper.Formula formula, Residency residency,
            PageStore.Factory spill) {
        Random random = new Random(Gpu.SEED);
        try (ParameterStore store = ParameterStore.builder().add("w", PARAMETERS).addTo("norms", "n", 1_234)
                .build(backend);
                Stream stream = backend.openStream()) {
            backend.upload(Gpu.normal(random, DType.F32, store.flatSize()), store.flatParams());
            AdamHyper h = AdamHyper.defaults(formula);
            try (AdamW adam = new AdamW(backend, store,
                    Map.of(ParameterStore.DEFAULT_GROUP, h.withWeightDecay(0.01), "norms", h), residency, spill)) {
                for (int step = 0; step < UPDATES; step++) {
                    backend.upload(Gpu.normal(random, DType.F32, store.flatSize()), store.flatGrads());
                    adam.prepare(1e-3, 0.1);
                    adam.clip(stream, 0.3);
                    adam.update(stream);
                }
                assertThat(adam.gradNorm()).isFinite().isPositive();
                List<Tensor> out = new ArrayList<>(List.of(Tensor.zeros(DType.F32, store.flatSize())));
                backend.download(store.flatParams(), out.getFirst());
                for (int state = 0; state < AdamW.STATES.size(); state++) {
                    out.add(Tensor.zeros(DType.F32, store.flatSize()));
                    adam.states().read(state, 0, out.getLast());
                }
                if (!residency.equals(Residency.ALL)) {
                    assertThat(adam.states().statistics().bytesSpilled()).isPositive();
                }
                return out;
            }
        }
    }

    @ParameterizedTest
    @EnumSource(AdamHyper.Formula.class)
    void everyResidencyGivesTheCpusBits(AdamHyper.Formula formula) {
        List<Tensor> expected = train(CPU, formula, Residency.ALL, null);
        try (Backend host = Backends.open(Backend.SCALAR)) {
            for (String budget : List.of("100%", "50%", "0%")) {
                List<Tensor> actual = train(CUDA, formula, Residency.parse(budget), HostPageStore.on(host));
                for (int i = 0; i < expected.size(); i++) {
                    assertThat(actual.get(i).data().mismatch(expected.get(i).data())).as("%s, tensor %d", budget, i)
                            .isEqualTo(-1);
                }
            }
        }
    }

    /** The losses of 200 steps that learn four sequences by heart, with dropout. */
    private static double[] curve(Backend backend, Path model, DType type, boolean checkpointing, Residency residency) {
        return curve(backend, model, type, checkpointing, residency, false);
    }

    private static double[] curve(Backend backend, Path model, DType type, boolean checkpointing, Residency residency,
            boolean offload) {
        Random random = new Random(Gpu.SEED + 1);
        TokenBatch batch = TinyModels.labelled(TinyModels.sequences(random, LENGTH, LENGTH, LENGTH, LENGTH));
        Decoder decoder = TinyModels.load(model, backend, type, true);
        AdamHyper hyper = AdamHyper.defaults(AdamHyper.Formula.BITSANDBYTES);
        double[] losses = new double[STEPS];
        try (Backend host = Backends.open(Backend.SCALAR);
                LayerInputStore inputs = offload ? HostLayerInputs.open(decoder, batch.rows()) : null;
                Adapter adapter = TinyModels.adapter(decoder, 0, 8, 5);
                Stream stream = backend.openStream();
                Allocation scalars = backend.allocate(192, MemoryUse.WORKSPACE);
                AdamW adam = new AdamW(backend, adapter.parameters(), Map.of(ParameterStore.DEFAULT_GROUP, hyper),
                        residency, HostPageStore.on(host))) {
            Tensor scale = scalars.tensor(0, DType.F32, 1);
            Tensor loss = scalars.tensor(64, DType.F64, 1);
            Tensor step = scalars.tensor(128, DType.I32, 1);
            Adapters use = new Adapters(0, null, new Dropout(0.05, Gpu.SEED, step, null, null));
            LossOptions options = new LossOptions(true, checkpointing, inputs);
            ArenaPlan plan = ArenaPlan.of(s -> decoder.loss(s, batch, use, options, scale, loss, null));
            backend.upload(Tensor.of(new float[]{1f / (SEQUENCES * (LENGTH - 3))}, 1), scale);
            try (Allocation arena = backend.allocate(plan.bytes(), MemoryUse.ACTIVATIONS)) {
                for (int i = 0; i < STEPS; i++) {
                    backend.upload(Tensor.of(new int[]{i}, 1), step);
                    stream.zero(loss);
                    adapter.parameters().zeroGrads(stream);
                    stream.begin(plan, arena);
                    decoder.loss(stream, batch, use, options, scale, loss, null);
                    stream.end();
                    adam.prepare(2e-3, 1);
                    adam.clip(stream, 0.3);
                    adam.update(stream);
                    Tensor host1 = Tensor.zeros(DType.F64, 1);
                    backend.download(loss, host1);
                    losses[i] = host1.get(0);
                }
            }
        }
        return losses;
    }

    private static double[] means(double[] losses) {
        double[] out = new double[losses.length / 10];
        for (int i = 0; i < 10 * out.length; i++) {
            out[i / 10] += losses[i] / 10;
        }
        return out;
    }

    private static double largest(double[] a, double[] b, double[] unit) {
        double most = 0;
        for (int i = 0; i < a.length; i++) {
            most = Math.max(most, Math.abs(a[i] - b[i]) / unit[i]);
        }
        return most;
    }

    @ParameterizedTest
    @CsvSource({"llama", "mistral"})
    void twoHundredStepsAreThoseOfTheCpu(String kind) throws IOException {
        Path model = TinyModels.write(java.nio.file.Files.createTempDirectory(directory, "curve"), kind,
                new Random(Gpu.SEED));
        double[] cpu = curve(CPU, model, DType.F32, false, Residency.ALL);
        double[] cuda = curve(CUDA, model, DType.F32, true, Residency.parse("50%"));
        double[] bf16 = curve(CUDA, model, DType.BF16, true, Residency.ALL);
        double off = largest(cpu, cuda, cpu);
        double[] start = means(cpu).clone();
        java.util.Arrays.fill(start, cpu[0]);
        double off16 = largest(means(cpu), means(bf16), start);
        System.out.printf("%s: cpu %.4f to %.4f, cuda %.4f, off by %.1e at most; bfloat16 %.4f, means off by %.1e%n",
                kind, cpu[0], cpu[STEPS - 1], cuda[STEPS - 1], off, bf16[STEPS - 1], off16);
        assertThat(cpu[STEPS - 1]).as("it learns").isLessThan(0.5 * cpu[0]);
        assertThat(off).isLessThanOrEqualTo(F32_BAND);
        assertThat(off16).isLessThanOrEqualTo(BF16_BAND);
    }

    @Test
    void aRunRepeatsBitForBit() throws IOException {
        Path model = TinyModels.write(java.nio.file.Files.createTempDirectory(directory, "again"), "llama",
                new Random(Gpu.SEED));
        double[] first = curve(CUDA, model, DType.BF16, false, Residency.ALL);
        assertThat(curve(CUDA, model, DType.BF16, true, Residency.parse("0%"))).isEqualTo(first);
        assertThat(curve(CUDA, model, DType.BF16, true, Residency.ALL, true)).as("offloaded inputs").isEqualTo(first);
    }
}
