package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Layer inputs that wait elsewhere, by copies that run as late as they may: what was put away is gone from its tensor as
 * soon as the copy has been waited for, and what is fetched is not there before.
 */
class LayerInputsTest {
    private static final TokenBatch BATCH = TinyModel.labelled(TinyModel.sequences(1, 6, 3, 9));
    private static final byte GONE = (byte) 0xff;

    @TempDir
    private static Path directory;

    /** Copies at the last moment. */
    private static final class LateCopies implements HostCopies {
        final List<Runnable> begun = new ArrayList<>();
        int stored;
        int fetched;
        boolean closed;

        @Override
        public MemorySegment hostMemory(long bytes) {
            return Arena.ofAuto().allocate(bytes);
        }

        @Override
        public void beginToHost(Tensor device, MemorySegment host) {
            begun.add(() -> {
                host.copyFrom(device.data());
                device.data().fill(GONE);
                stored++;
            });
        }

        @Override
        public void beginToDevice(MemorySegment host, Tensor device) {
            device.data().fill(GONE);
            begun.add(() -> {
                device.data().copyFrom(host);
                host.fill(GONE);
                fetched++;
            });
        }

        @Override
        public void queueWaits() {
            begun.forEach(Runnable::run);
            begun.clear();
        }

        @Override
        public void await() {
            throw new IllegalStateException("this would wait");
        }

        @Override
        public void toHost(Tensor device, MemorySegment host) {
            throw new IllegalStateException("this would wait");
        }

        @Override
        public void toDevice(MemorySegment host, Tensor device) {
            throw new IllegalStateException("this would wait");
        }

        @Override
        public void close() {
            closed = true;
        }
    }

    private static DecoderConfig deep(int layers) {
        DecoderConfig c = TinyModel.LLAMA;
        return new DecoderConfig(c.architecture(), c.vocab(), c.hidden(), c.intermediate(), layers, c.heads(),
                c.kvHeads(), c.headDim(), c.rmsNormEps(), c.maxPositions(), c.tieWordEmbeddings(), c.slidingWindow(),
                c.windowFrom(), c.rope(), c.qkvBias(), c.outputBias(), c.mlpBias(), c.qkNorm(), c.dtype(),
                c.hiddenAct(), OptionalInt.of(1), List.of(2), OptionalInt.empty(), null);
    }

    private static Tensor gradients(Decoder decoder, Adapter adapter, TokenBatch batch, LossOptions options) {
        Adapters use = adapter.use();
        Tensor one = Tensor.shapeOnly(DType.F32, 1);
        ArenaPlan plan = ArenaPlan.of(s -> decoder.loss(s, TokenBatch.largest(3, 9), use, options, one,
                Tensor.shapeOnly(DType.F64, 1), null));
        try (Stream s = decoder.backend().openStream();
                Allocation arena = decoder.backend().allocate(plan.bytes(), MemoryUse.ACTIVATIONS)) {
            arena.data().fill(GONE);
            adapter.parameters().zeroGrads(s);
            s.begin(plan, arena);
            double loss = TinyModel.loss(s, decoder, batch, use, options);
            s.end();
            assertThat(loss).isFinite();
            Tensor g = adapter.parameters().flatGrads();
            return Tensor.zeros(g.dtype(), g.shape()).copyFrom(g);
        }
    }

    @ParameterizedTest
    @CsvSource({"1,F32", "2,BF16", "5,F32"})
    void changeNoBit(int layers, DType type) throws IOException {
        DecoderConfig config = deep(layers);
        Path file = TinyModel.write(directory.resolve(layers + ".safetensors"), config);
        try (Backend cpu = Backends.open(Backend.CPU, null, 1)) {
            Decoder decoder = TinyModel.load(file, config, cpu, type, true);
            LateCopies copies = new LateCopies();
            try (Adapter adapter = TinyModel.adapter(decoder, 0, 3, 6); LayerInputStore store = new HostLayerInputs(
                    copies, layers, type.bytes((long) TokenBatch.largest(3, 9).rows() * config.hidden()))) {
                for (TokenBatch batch : List.of(BATCH, TinyModel.labelled(TinyModel.sequences(2, 4, 5)))) {
                    Tensor kept = gradients(decoder, adapter, batch, new LossOptions(true, true));
                    Tensor away = gradients(decoder, adapter, batch, new LossOptions(true, true, store));
                    assertThat(away.data().mismatch(kept.data())).isEqualTo(-1);
                }
                assertThat(copies.stored).isEqualTo(2 * (layers - 1));
                assertThat(copies.fetched).isEqualTo(copies.stored);
            }
            assertThat(copies.closed).isTrue();
        }
    }

    @Test
    void aDeepModelsStepHoldsTwoInputs() throws IOException {
        DecoderConfig config = deep(12);
        Path file = TinyModel.write(directory.resolve("deep.safetensors"), config);
        try (Backend cpu = Backends.open(Backend.CPU, null, 1)) {
            Decoder decoder = TinyModel.load(file, config, cpu, DType.F32, false);
            TokenBatch largest = TokenBatch.largest(4, 32);
            long input = DType.F32.bytes((long) largest.rows() * config.hidden());
            try (LayerInputStore store = new HostLayerInputs(new LateCopies(), 12, input)) {
                long[] bytes = new long[2];
                for (int i = 0; i < 2; i++) {
                    LossOptions options = new LossOptions(true, true, i == 0 ? null : store);
                    bytes[i] = ArenaPlan.of(s -> decoder.loss(s, largest, Adapters.NONE, options,
                            Tensor.shapeOnly(DType.F32, 1), Tensor.shapeOnly(DType.F64, 1), null)).bytes();
                }
                // Of twelve inputs two are left, or three where the layout leaves a gap.
                assertThat(bytes[0] - bytes[1]).isGreaterThanOrEqualTo(9 * input);
            }
        }
    }

    @Test
    void isRefusedWhereItMakesNoSense() throws IOException {
        DecoderConfig config = deep(2);
        Path file = TinyModel.write(directory.resolve("refused.safetensors"), config);
        try (Backend cpu = Backends.open(Backend.CPU, null, 1)) {
            Decoder decoder = TinyModel.load(file, config, cpu, DType.F32, false);
            assertThatIllegalArgumentException().isThrownBy(() -> HostLayerInputs.open(decoder, 3))
                    .withMessageContainingAll("--offload-activations", "cpu", "--backend cuda");
            try (LayerInputStore store = new HostLayerInputs(new LateCopies(), 2, 64)) {
                assertThatIllegalArgumentException().isThrownBy(() -> new LossOptions(true, false, store))
                        .withMessageContainingAll("--offload-activations", "--gradient-checkpointing");
            }
        }
    }
}
