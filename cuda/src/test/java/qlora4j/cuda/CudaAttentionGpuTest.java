package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Arrays;
import java.util.Random;
import java.util.stream.IntStream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import qlora4j.model.AttentionShape;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Attention and its gradient against their scalar twins: packed sequences, caches, windows, all paths. */
@Tag("gpu")
class CudaAttentionGpuTest {
    /**
     * In bfloat16 probabilities and their gradients are rounded before a product, the output after it, and the scalar
     * twin's output too: each by 2^-8 of itself at most, by half of that or less in norm. Four roundings of such norm.
     */
    private static final double BF16_BOUND = 4 * 0x1p-9;
    /** In float32: sums of up to 600 terms in another order, and exponentials of sums; a hundred roundings in norm. */
    private static final double F32_BOUND = 100 * 0x1p-24;

    private static final Twins TWINS = new Twins();
    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
    }

    private Tensor normal(DType type, long... shape) {
        return Gpu.normal(random, type, shape);
    }

    private static void near(Tensor[][] both, DType type) {
        for (int t = 0; t < both[0].length; t++) {
            double error = 0;
            double norm = 0;
            for (long i = 0; i < both[0][t].size(); i++) {
                double e = both[0][t].get(i);
                double a = both[1][t].get(i);
                assertThat(e).as("the reference's output %d, element %d", t, i).isFinite();
                assertThat(a).as("output %d, element %d", t, i).isFinite();
                error += (a - e) * (a - e);
                norm += e * e;
            }
            boolean narrow = type == DType.BF16 && both[0][t].dtype() == DType.BF16;
            assertThat(Math.sqrt(error)).as("distance of output %d", t)
                    .isLessThanOrEqualTo((narrow ? BF16_BOUND : F32_BOUND) * Math.sqrt(norm));
        }
    }

    private static int[] cumulative(int... lengths) {
        int[] cu = new int[lengths.length + 1];
        for (int i = 0; i < lengths.length; i++) {
            cu[i + 1] = cu[i] + lengths[i];
        }
        return cu;
    }

    /** Forward and backward of packed sequences around the sizes of blocks; the backward gets the twin's out and lse. */
    @ParameterizedTest
    @CsvSource({"1,1,16,0,F32", "6,2,64,0,F32", "4,4,7,9,F32", "4,2,96,70,F32", "2,1,256,0,F32", "3,3,1,1,F32",
            "1,1,16,0,BF16", "6,2,64,0,BF16", "2,1,40,9,BF16", "4,1,128,0,BF16", "2,2,96,70,BF16", "2,1,256,0,BF16",
            "2,1,200,33,BF16", "2,2,128,129,BF16"})
    void packedSequences(int heads, int kvHeads, int d, int window, DType type) {
        packed(cumulative(1, 0, 70, 5, 140, 64, 0, 260), heads, kvHeads, d, window, type);
    }

    /** More sequences than a warp has lanes, most of them tiny. */
    @ParameterizedTest
    @EnumSource(value = DType.class, names = {"F32", "BF16"})
    void manySequences(DType type) {
        int[] lengths = IntStream.range(0, 77).map(i -> i % 9 == 8 ? 130 + i : i % 3).toArray();
        packed(cumulative(lengths), 2, 1, 64, 0, type);
    }

    private void packed(int[] cu, int heads, int kvHeads, int d, int window, DType type) {
        int n = cu[cu.length - 1];
        int sequences = cu.length - 1;
        int[] starts = Arrays.copyOf(cu, sequences);
        int[] lengths = IntStream.range(0, sequences).map(i -> cu[i + 1] - cu[i]).toArray();
        AttentionShape shape = new AttentionShape(heads, kvHeads, d, window, Arrays.stream(lengths).max().getAsInt());
        Tensor q = normal(type, n, (long) heads * d);
        Tensor k = normal(type, n, (long) kvHeads * d);
        Tensor v = normal(type, n, (long) kvHeads * d);
        Tensor dOut = normal(type, n, (long) heads * d);
        Twins.Operation forward = r -> {
            Tensor out = r.out(type, n, (long) heads * d);
            Tensor lse = r.out(DType.F32, n, heads);
            DecoderOps.attention(r.s, shape, r.in(q), r.in(k), r.in(v), r.ints(cu), r.ints(starts), r.ints(lengths),
                    out,
                    lse);
            return new Tensor[]{out, lse};
        };
        Tensor[][] saved = TWINS.run(forward);
        near(saved, type);
        Twins.Operation backward = r -> {
            Tensor dq = r.out(type, n, (long) heads * d);
            Tensor dk = r.out(type, n, (long) kvHeads * d);
            Tensor dv = r.out(type, n, (long) kvHeads * d);
            DecoderOps.attentionBackward(r.s, shape, r.in(dOut), r.in(q), r.in(k), r.in(v), r.in(saved[0][0]),
                    r.in(saved[0][1]), r.ints(cu), dq, dk, dv);
            return new Tensor[]{dq, dk, dv};
        };
        Tensor[][] gradients = TWINS.run(backward);
        near(gradients, type);
        Tensor[] again = TWINS.run(backward)[1];
        for (int t = 0; t < again.length; t++) {
            assertThat(again[t].data().mismatch(gradients[1][t].data())).as("a second run's output %d", t)
                    .isEqualTo(-1);
        }
    }

    /**
     * Rows over the keys of a cache whose other rows are NaN: one and a few (the keys are split among blocks) and many;
     * groups of heads that fill a unit, do not, and exceed it.
     */
    @ParameterizedTest
    @CsvSource({"4,2,64,0,F32", "8,1,128,0,F32", "20,1,24,50,F32", "4,1,256,0,F32", "4,2,64,0,BF16", "8,2,128,0,BF16",
            "20,1,24,50,BF16", "32,1,64,0,BF16", "4,1,256,0,BF16", "2,1,200,0,BF16", "2,2,128,300,BF16"})
    void throughACache(int heads, int kvHeads, int d, int window, DType type) {
        for (int[] queries : new int[][]{{1}, {1, 1, 1}, {2, 0, 1}, {4, 1, 3}, {70, 1, 129}}) {
            int sequences = queries.length;
            int[] cu = cumulative(queries);
            int capacity = 700;
            int[] before = Arrays.copyOf(new int[]{523, 0, 64}, sequences);
            int[] starts = IntStream.range(0, sequences).map(i -> i * capacity).toArray();
            int[] lengths = IntStream.range(0, sequences).map(i -> before[i] + queries[i]).toArray();
            Tensor k = Tensor.zeros(type, (long) sequences * capacity, (long) kvHeads * d).fill(Double.NaN);
            Tensor v = Tensor.zeros(type, (long) sequences * capacity, (long) kvHeads * d).fill(Double.NaN);
            for (int i = 0; i < sequences; i++) {
                k.rows(starts[i], starts[i] + lengths[i]).copyFrom(normal(type, lengths[i], (long) kvHeads * d));
                v.rows(starts[i], starts[i] + lengths[i]).copyFrom(normal(type, lengths[i], (long) kvHeads * d));
            }
            Tensor q = normal(type, cu[sequences], (long) heads * d);
            AttentionShape shape = new AttentionShape(heads, kvHeads, d, window, capacity);
            Twins.Operation operation = r -> {
                Tensor out = r.out(type, q.dim(0), (long) heads * d);
                Tensor lse = r.out(DType.F32, q.dim(0), heads);
                DecoderOps.attention(r.s, shape, r.in(q), r.in(k), r.in(v), r.ints(cu), r.ints(starts), r.ints(lengths),
                        out, lse);
                return new Tensor[]{out, lse};
            };
            Tensor[][] both = TWINS.run(operation);
            near(both, type);
            // Once more: counters are as they were, and the parts are combined in the same order.
            Tensor[] again = TWINS.run(operation)[1];
            assertThat(again[0].data().mismatch(both[1][0].data())).isEqualTo(-1);
        }
    }

    /** On a Hopper GPU the kernels that run everywhere are not what the backend takes: they are called by name. */
    @ParameterizedTest
    @CsvSource({"6,2,64,0", "4,1,128,0", "2,2,96,70", "2,2,128,129"})
    void portableKernels(int heads, int kvHeads, int d, int window) {
        int[] cu = cumulative(1, 0, 70, 5, 140, 64, 0, 260);
        int n = cu[cu.length - 1];
        int[] starts = Arrays.copyOf(cu, cu.length - 1);
        int[] lengths = IntStream.range(0, starts.length).map(i -> cu[i + 1] - cu[i]).toArray();
        AttentionShape shape = new AttentionShape(heads, kvHeads, d, window, 260);
        Tensor q = normal(DType.BF16, n, (long) heads * d);
        Tensor k = normal(DType.BF16, n, (long) kvHeads * d);
        Tensor v = normal(DType.BF16, n, (long) kvHeads * d);
        Tensor dOut = normal(DType.BF16, n, (long) heads * d);
        CudaAttention portable = new CudaAttention(TWINS.cuda, false);
        near(TWINS.run(r -> {
            Tensor out = r.out(DType.BF16, n, (long) heads * d);
            Tensor lse = r.out(DType.F32, n, heads);
            Tensor dq = r.out(DType.BF16, n, (long) heads * d);
            Tensor dk = r.out(DType.BF16, n, (long) kvHeads * d);
            Tensor dv = r.out(DType.BF16, n, (long) kvHeads * d);
            Tensor queries = r.in(q);
            Tensor keys = r.in(k);
            Tensor values = r.in(v);
            Tensor gradient = r.in(dOut);
            Tensor ends = r.ints(cu);
            if (r.s instanceof CudaStream cuda) {
                portable.forward(cuda, shape, queries, keys, values, ends, r.ints(starts), r.ints(lengths), out, lse);
                portable.backward(cuda, shape, gradient, queries, keys, values, out, lse, ends, dq, dk, dv);
            } else {
                DecoderOps.attention(r.s, shape, queries, keys, values, ends, r.ints(starts), r.ints(lengths), out,
                        lse);
                DecoderOps.attentionBackward(r.s, shape, gradient, queries, keys, values, out, lse, ends, dq, dk, dv);
            }
            return new Tensor[]{out, lse, dq, dk, dv};
        }), DType.BF16);
    }

    @Test
    void whatItCannotDoIsNamed() {
        try (Stream s = TWINS.cuda.openStream()) {
            assertThatThrownBy(() -> empty(s, DType.BF16, 20)).hasMessageContaining("not head_dim 20");
            assertThatThrownBy(() -> empty(s, DType.F32, 264)).hasMessageContaining("not head_dim 264");
            assertThatThrownBy(() -> empty(s, DType.F16, 64)).hasMessageContaining("float32 and bfloat16");
            empty(s, DType.BF16, 64);
        }
    }

    /** A call without a row. */
    private static void empty(Stream s, DType type, int d) {
        Tensor rows = Gpu.poisoned(TWINS.cuda, type, 0, d);
        Tensor zero = Gpu.device(TWINS.cuda, Tensor.of(new int[]{0}, 1));
        Tensor cu = Gpu.device(TWINS.cuda, Tensor.of(new int[]{0, 0}, 2));
        DecoderOps.attention(s, new AttentionShape(1, 1, d, 0, 1), rows, Gpu.poisoned(TWINS.cuda, type, 0, d),
                Gpu.poisoned(TWINS.cuda, type, 0, d), cu, zero, zero, Gpu.poisoned(TWINS.cuda, type, 0, d),
                Gpu.poisoned(TWINS.cuda, DType.F32, 0, 1));
    }
}
