package qlora4j.train;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.model.Adapter;
import qlora4j.model.CausalLm;
import qlora4j.model.DecoderLoader;
import qlora4j.model.TokenBatch;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Tensor;
import qlora4j.train.data.Batch;
import qlora4j.train.data.Batches;
import qlora4j.train.data.GlobalBatch;
import qlora4j.train.data.Packing;
import qlora4j.train.data.TokenizedData;
import qlora4j.train.data.TokenizedRow;

/** Rows packed to sequences and the same rows one by one: the same loss and the same gradients. */
class PackedTrainingTest {
    private static final double DROPOUT = 0.3;
    /** A few of float32's epsilons of 1.2e-7: only the order of sums differs. */
    private static final double TOLERANCE = 1e-6;

    @TempDir
    private static Path directory;
    private static int adapters;

    private record Did(double loss, double evaluated, Tensor grads) {
    }

    @ParameterizedTest
    @ValueSource(strings = {Backend.SCALAR, Backend.CPU})
    void lossAndGradientsAreThoseOfRowsOneByOne(String name) throws IOException {
        TokenizedData rows = TinyRun.data(1, 9);
        TokenizedData packed = new TokenizedData(rows.rows(), rows.sources(), rows.report(),
                Packing.bestFitDecreasing(rows.rows(), 64));
        assertThat(packed.sequences()).hasSizeLessThan(9).anyMatch(s -> s.size() > 2);
        int all = packed.sequences().size();
        GlobalBatch together = new Batches(packed, all, 1, 5).at(0);
        GlobalBatch split = new Batches(packed, 1, all, 5).at(0);
        List<TokenizedRow> inOrder = together.rows().stream().map(packed.rows()::get).toList();
        GlobalBatch oneByOne = new GlobalBatch(0, 0, together.rows(), Batches.inOrder(inOrder, 1));
        try (Backend backend = Backends.open(name, null, 2);
                CausalLm lm = CausalLm.load(TinyRun.model(directory.resolve(name)), backend, DecoderLoader.QLORA)) {
            Did expected = step(lm, packed, oneByOne);
            assertThat(expected.loss).isFinite().isPositive();
            for (GlobalBatch batch : List.of(together, split)) {
                Did did = step(lm, packed, batch);
                assertThat(Math.abs(did.loss - expected.loss)).isLessThanOrEqualTo(TOLERANCE * expected.loss);
                assertThat(Math.abs(did.evaluated - expected.evaluated))
                        .isLessThanOrEqualTo(TOLERANCE * expected.evaluated);
                assertThat(difference(did.grads, expected.grads)).isLessThanOrEqualTo(TOLERANCE);
            }
            Did crossing = step(lm, packed, new GlobalBatch(0, 0, together.rows(),
                    together.microBatches().stream().map(PackedTrainingTest::asOneSample).toList()));
            assertThat(Math.abs(crossing.loss - expected.loss)).as("attention across samples shows")
                    .isGreaterThan(1000 * TOLERANCE * expected.loss);
        }
    }

    /** What a packed sequence must not be: one long sample. */
    private static Batch asOneSample(Batch b) {
        return new Batch(b.tokens(), b.labels(), new int[]{0, b.tokens().length},
                IntStream.range(0, b.tokens().length).toArray(), new int[b.tokens().length], b.labelTokens());
    }

    private static Did step(CausalLm lm, TokenizedData data, GlobalBatch batch) {
        Adapter adapter = TinyRun.adapter(lm, "adapter " + adapters++, 4, DROPOUT);
        TrainSettings settings = TinyRun.settings(1, 1, 1, Residency.ALL, false, 0);
        int tokens = data.packing().capacity() * data.sequences().size();
        try (Trainer trainer = new Trainer(lm.decoder(), adapter.parameters(), adapter.slot(), DROPOUT, settings, 1,
                TokenBatch.largest(data.rows().size(), tokens), directory)) {
            double evaluated = trainer.evaluate(batch.microBatches());
            double loss = trainer.step(batch).loss();
            Tensor grads = adapter.parameters().flatGrads();
            return new Did(loss, evaluated, Tensor.zeros(grads.dtype(), grads.shape()).copyFrom(grads));
        }
    }

    private static double difference(Tensor a, Tensor b) {
        double difference = 0;
        double norm = 0;
        for (long i = 0; i < a.size(); i++) {
            difference += Math.pow(a.get(i) - b.get(i), 2);
            norm += Math.pow(b.get(i), 2);
        }
        assertThat(norm).isPositive();
        return Math.sqrt(difference / norm);
    }
}
