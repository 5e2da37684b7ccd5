package qlora4j.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The vector products against the scalar ones at awkward sizes, within the contract's bound n·ε·Σ|a·b|. */
@Tag("lanes")
class MatmulTest {
    private static final double EPSILON = 0x1p-23;
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend ONE = Backends.open("cpu", null, 1);
    private static final Backend THREE = Backends.open("cpu", null, 3);

    @AfterAll
    static void close() {
        SCALAR.close();
        ONE.close();
        THREE.close();
    }

    private enum Product {
        NT, NN, TN
    }

    @ParameterizedTest
    @CsvSource({"1,1,1", "1,64,33", "3,200,65", "6,32,256", "7,33,257", "13,5,300", "50,70,513", "130,17,9", "2,3,0",
            "0,4,4", "64,96,64", "1100,40,20", "2,66,70", "4,5,31", "1,300,32", "61,16,400", "100,8,193", "37,32,200",
            "25,1,7", "20,4,0", "1,40,16", "3,9,24", "2,41,8", "8,290,50", "9,270,385"})
    void agreesWithScalar(int m, int n, int k) {
        for (Product product : Product.values()) {
            for (boolean accumulate : new boolean[]{false, true}) {
                Tensor a = random(1, product == Product.TN ? new long[]{k, m} : new long[]{m, k});
                Tensor b = random(2, product == Product.NT ? new long[]{n, k} : new long[]{k, n});
                Tensor start = random(3, m, n);
                Tensor expected = run(SCALAR, product, a, b, start, accumulate);
                Tensor actual = run(ONE, product, a, b, start, accumulate);
                assertThat(run(THREE, product, a, b, start, accumulate).toFloats()).as("threads change nothing")
                        .isEqualTo(actual.toFloats());
                Tensor magnitude = run(SCALAR, product, abs(a), abs(b), abs(start), accumulate);
                for (int i = 0; i < expected.size(); i++) {
                    double bound = (k + 2) * EPSILON * magnitude.get(i);
                    assertThat(Math.abs(actual.get(i) - expected.get(i))).as("%s %d", product, i)
                            .isLessThanOrEqualTo(bound);
                }
            }
        }
    }

    @Test
    void bfloat16RoundsOnce() {
        Tensor x = bf16(random(4, 9, 70));
        Tensor w = bf16(random(5, 40, 70));
        Tensor expected = Tensor.zeros(DType.F64, 9, 40);
        Tensor actual = Tensor.zeros(DType.BF16, 9, 40);
        try (Stream s = SCALAR.openStream(); Stream v = ONE.openStream()) {
            Matmul.nt(s, x, w, 1, expected, false);
            Matmul.nt(v, x, w, 1, actual, false);
        }
        for (int i = 0; i < expected.size(); i++) {
            // Half an ulp of bfloat16 (8 bits of mantissa), and a little for the sum in float32.
            double bound = Math.abs(expected.get(i)) * 0x1p-8 + 1e-4;
            assertThat(Math.abs(actual.get(i) - expected.get(i))).isLessThanOrEqualTo(bound);
        }
    }

    /** A bfloat16 weight beside float32 activations is read as the same numbers in float32 are. */
    @ParameterizedTest
    @CsvSource({"1,64,33", "2,7,96", "3,1030,65", "4,4,31", "1,3,40", "9,40,70", "9,270,385"})
    void aNarrowWeightLosesNothing(int m, int n, int k) {
        Tensor narrow = bf16(random(7, n, k));
        for (Product product : new Product[]{Product.NT, Product.NN}) {
            boolean forward = product == Product.NT;
            Tensor x = random(6, m, forward ? k : n);
            Tensor start = Tensor.zeros(DType.F32, m, forward ? n : k);
            Tensor expected = run(SCALAR, product, x, narrow, start, false);
            Tensor magnitude = run(SCALAR, product, abs(x), abs(narrow), start, false);
            Tensor actual = run(ONE, product, x, narrow, start, false);
            for (int i = 0; i < expected.size(); i++) {
                assertThat(Math.abs(actual.get(i) - expected.get(i))).as("%s %d", product, i)
                        .isLessThanOrEqualTo((Math.max(n, k) + 2) * EPSILON * magnitude.get(i));
            }
        }
    }

    /** Products of a few rows in one loop, of one x or several and of weights of any type, are each what they are alone. */
    @ParameterizedTest
    @CsvSource({"1,F32,F32", "4,F32,BF16", "2,BF16,F32", "5,F32,F32", "3,F32,F16"})
    void severalAreEachOnItsOwn(int m, DType type, DType last) {
        Tensor x = random(8, m, 40);
        Tensor[] xs = {x, x, random(9, m, 16), x};
        Tensor[] w = {random(10, 33, 40), random(11, 4, 40), random(12, 130, 16), random(13, 7, 40)};
        w[1] = Tensor.zeros(type, w[1].shape()).copyFrom(w[1]);
        w[3] = Tensor.zeros(last, w[3].shape()).copyFrom(w[3]);
        float[] alpha = {1, 0.5f, 2, 3};
        Tensor[] together = new Tensor[w.length];
        Tensor[] alone = new Tensor[w.length];
        try (Stream s = THREE.openStream()) {
            for (int i = 0; i < w.length; i++) {
                together[i] = random(14 + i, m, w[i].rows());
                alone[i] = random(14 + i, m, w[i].rows());
                Matmul.nt(s, xs[i], w[i], alpha[i], alone[i], true);
            }
            Matmul.nt(s, xs, w, alpha, together, true);
        }
        for (int i = 0; i < w.length; i++) {
            assertThat(together[i].toFloats()).as("%d", i).containsExactly(alone[i].toFloats());
        }
    }

    /** More columns of A than are packed at once: the sums of a bfloat16 result are carried in float32. */
    @ParameterizedTest
    @CsvSource({"F32", "BF16"})
    void sumsLongerThanWhatIsPacked(DType type) {
        int m = 100;
        int n = 35;
        int k = 60_000;
        Tensor a = ones(m, k);
        Tensor b = ones(k, n);
        a.set(3L * k + 17, 2);
        b.set((k - 2L) * n + 5, 3);
        Tensor c = Tensor.zeros(type, m, n).fill(0.5);
        try (Stream s = THREE.openStream()) {
            Matmul.nn(s, a, b, 0.25f, c, true);
        }
        for (int i = 0; i < m; i++) {
            for (int j = 0; j < n; j++) {
                // Sums of quarters and halves, exact in float32.
                double expected = 0.5 + 0.25 * (k + (i == 3 ? 1 : 0) + (j == 5 ? 2 : 0));
                assertThat(c.get((long) i * n + j)).as("%d, %d", i, j)
                        .isEqualTo(type == DType.F32 ? expected : bf16(expected));
            }
        }
    }

    private static double bf16(double x) {
        return DType.bf16ToFloat(DType.floatToBf16((float) x));
    }

    private static Tensor ones(long... shape) {
        return Tensor.zeros(DType.F32, shape).fill(1);
    }

    @Test
    void namesWhatDoesNotFit() {
        try (Stream s = ONE.openStream()) {
            assertThatThrownBy(() -> Matmul.nt(s, random(1, 2, 3), random(2, 4, 5), 1, random(3, 2, 4), false))
                    .hasMessageContaining("F32[2, 3]").hasMessageContaining("F32[4, 5]");
            Tensor t = random(1, 4, 4);
            assertThatThrownBy(() -> Matmul.nt(s, t, t, 1, t, false)).hasMessageContaining("overlaps");
        }
    }

    private static Tensor run(Backend backend, Product product, Tensor a, Tensor b, Tensor start, boolean accumulate) {
        Tensor out = Tensor.zeros(DType.F32, start.shape()).copyFrom(start);
        if (!accumulate) {
            out.fill(Double.NaN);
        }
        try (Stream s = backend.openStream()) {
            switch (product) {
                case NT -> Matmul.nt(s, a, b, 1.5f, out, accumulate);
                case NN -> Matmul.nn(s, a, b, 1.5f, out, accumulate);
                case TN -> Matmul.tn(s, a, b, 1.5f, out, accumulate);
            }
        }
        return out;
    }

    private static Tensor random(int seed, long... shape) {
        Tensor t = Tensor.zeros(DType.F32, shape);
        Philox.Sequence rng = new Philox.Sequence(seed, 0, 0);
        for (int i = 0; i < t.size(); i++) {
            t.set(i, rng.nextGaussian());
        }
        return t;
    }

    private static Tensor abs(Tensor t) {
        Tensor out = Tensor.zeros(t.dtype(), t.shape());
        for (int i = 0; i < t.size(); i++) {
            out.set(i, Math.abs(t.get(i)));
        }
        return out;
    }

    private static Tensor bf16(Tensor t) {
        return Tensor.zeros(DType.BF16, t.shape()).copyFrom(t);
    }
}
