package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.Random;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.Generator;
import qlora4j.model.HostLayerInputs;
import qlora4j.model.LayerInputStore;
import qlora4j.model.SamplingConfig;
import qlora4j.model.TokenBatch;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Two physical GPUs open in one process: a thread on each computes losses and gradients and writes text, both at once,
 * and each gives the bits that it gives alone. Runs where there are two GPUs ({@link GpuTests} says so where not).
 */
@Tag("gpu")
@Tag("gpus")
class SeveralGpusTest {
    private static final int STEPS = 20;

    @TempDir
    private static Path directory;

    /** The losses of some steps, the last step's gradients, and a text's tokens. */
    private record Work(double[] losses, float[] gradients, int[] text) {
    }

    private static Work work(Backend backend, Path model, boolean offload) {
        Random random = new Random(Gpu.SEED);
        TokenBatch batch = TinyModels.labelled(TinyModels.sequences(random, 60, 33, 90));
        int[] prompt = TinyModels.sequences(random, 7)[0];
        Decoder decoder = TinyModels.load(model, backend, DType.BF16, true);
        double[] losses = new double[STEPS];
        try (Adapter adapter = TinyModels.adapter(decoder, 0, 8, 5);
                LayerInputStore inputs = offload ? HostLayerInputs.open(decoder, batch.rows()) : null;
                Stream stream = backend.openStream();
                Allocation scalars = backend.allocate(128, MemoryUse.WORKSPACE);
                Generator generator = new Generator(decoder, 100)) {
            Tensor scale = scalars.tensor(0, DType.F32, 1);
            Tensor loss = scalars.tensor(64, DType.F64, 1);
            backend.upload(Tensor.of(new float[]{0.01f}, 1), scale);
            for (int i = 0; i < STEPS; i++) {
                stream.zero(loss);
                adapter.parameters().zeroGrads(stream);
                decoder.loss(stream, batch, adapter.use(), new LossOptions(true, true, inputs), scale, loss, null);
                Tensor host = Tensor.zeros(DType.F64, 1);
                backend.download(loss, host);
                losses[i] = host.get(0);
            }
            Tensor gradients = Tensor.zeros(DType.F32, adapter.parameters().flatSize());
            backend.download(adapter.parameters().flatGrads(), gradients);
            int[] text = generator.generate(prompt, 60, SamplingConfig.GREEDY, adapter.use(), Set.of(), null);
            return new Work(losses, gradients.toFloats(), text);
        }
    }

    private static void same(Work actual, Work expected, String what) {
        assertThat(actual.losses).as(what).isEqualTo(expected.losses);
        assertThat(actual.gradients).as(what).isEqualTo(expected.gradients);
        assertThat(actual.text).as(what).isEqualTo(expected.text);
    }

    @Test
    void workAtOnceAsEachAlone() throws IOException, InterruptedException, ExecutionException {
        Path model = TinyModels.write(directory, "llama", new Random(Gpu.SEED));
        try (Backend first = Backends.open(Backend.CUDA, new Device(Backend.CUDA, 0), 0);
                Backend second = Backends.open(Backend.CUDA, new Device(Backend.CUDA, 1), 0);
                ExecutorService threads = Executors.newFixedThreadPool(2)) {
            assertThat(second.device()).isNotEqualTo(first.device());
            Work one = work(first, model, false);
            Work other = work(second, model, false);
            assertThat(one.gradients).contains(one.gradients[0]).isNotEqualTo(new float[one.gradients.length]);
            List<Callable<Work>> both = List.of(() -> work(first, model, true), () -> work(second, model, true));
            List<Future<Work>> done = threads.invokeAll(both);
            same(done.get(0).get(), one, "cuda:0");
            same(done.get(1).get(), other, "cuda:1");
            assertThat(first.ledger().held(MemoryUse.WEIGHTS)).isPositive()
                    .isEqualTo(second.ledger().held(MemoryUse.WEIGHTS));
            System.out.println(first.describe() + " and " + second.describe());
        }
    }
}
