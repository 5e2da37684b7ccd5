package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.Optim;
import qlora4j.optim.OptimKernels;
import qlora4j.optim.OptimScalars;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The optimizer's kernels give the scalar backend's bits: all sizes, denormals, infinities and NaN included. */
@Tag("gpu")
class CudaOptimGpuTest {
    private static final Twins TWINS = new Twins();
    private static final double[] SPECIAL = {Double.NaN, Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY, -0.0, 0.0,
            Float.MIN_VALUE, -Float.MIN_NORMAL / 3, Float.MAX_VALUE, -Float.MAX_VALUE, 1e-30, 1e30, 0x1p-70, -0x1p-74};
    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
    }

    /** Normal numbers of some scale, every seventh a number of many magnitudes, one in 29 special. */
    private Tensor values(DType type, int n, double scale, boolean positive) {
        Tensor t = Tensor.zeros(type, n);
        for (int i = 0; i < n; i++) {
            double x = scale * random.nextGaussian();
            if (i % 7 == 3) {
                x = Math.scalb(random.nextGaussian(), random.nextInt(250) - 160);
            }
            if (i % 29 == 11) {
                x = SPECIAL[random.nextInt(SPECIAL.length)];
            }
            t.set(i, positive ? Math.abs(x) : x);
        }
        return t;
    }

    private static Tensor scalars(double clip) {
        Tensor s = Tensor.zeros(DType.F64, OptimScalars.SIZE);
        s.set(OptimScalars.LEARNING_RATE, 1.3e-3);
        s.set(OptimScalars.CORRECTION1, 0.271);
        s.set(OptimScalars.CORRECTION2, 0.0547);
        s.set(OptimScalars.GRAD_SCALE, 0.7);
        s.set(OptimScalars.CLIP_SCALE, clip);
        return s;
    }

    /** {@code shift}: the ranges begin that many elements behind an aligned address. */
    @ParameterizedTest
    @CsvSource({"1,0,F32", "7,0,F32", "5003,0,F32", "5003,1,F32", "300001,0,F32", "300001,2,F32", "0,0,F32",
            "5003,0,F64", "5003,1,F64"})
    void adamWIsBitIdentical(int n, int shift, DType type) {
        Tensor[] start = {values(type, n + shift, 1, false), values(type, n + shift, 1e-2, false),
                values(type, n + shift, 1e-3, false), values(type, n + shift, 1e-5, true)};
        for (AdamHyper.Formula formula : AdamHyper.Formula.values()) {
            for (double decay : new double[]{0, 0.013}) {
                AdamHyper hyper = new AdamHyper(formula, 0.9, 0.999, 1e-8, decay, 1.5);
                TWINS.identical(r -> {
                    Tensor[] t = new Tensor[4];
                    for (int k = 0; k < 4; k++) {
                        t[k] = r.in(start[k]);
                    }
                    Optim.adamW(r.s, hyper, t[0].slice(shift, n), t[1].slice(shift, n), t[2].slice(shift, n),
                            t[3].slice(shift, n), r.in(scalars(0.3700000001)));
                    return t;
                });
            }
        }
    }

    @ParameterizedTest
    @CsvSource({"1,F32", "4095,F32", "4096,F32", "4097,F32", "20483,F32", "1000003,F32", "12289,F64", "0,F32"})
    void normsAreBitIdentical(int n, DType type) {
        Tensor x = Gpu.normal(random, type, n);
        for (double maxNorm : new double[]{0.3, 1e9, Double.POSITIVE_INFINITY}) {
            TWINS.identical(r -> {
                Tensor scalars = r.in(scalars(Double.NaN));
                Optim.clip(r.s, r.in(x), maxNorm, scalars);
                return new Tensor[]{scalars};
            });
        }
    }

    @ParameterizedTest
    @ValueSource(doubles = {Double.NaN, Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY})
    void aNormThatIsNoNumberStaysSo(double bad) {
        Tensor x = Gpu.normal(random, DType.F32, OptimKernels.CHUNK + 5);
        x.set(random.nextInt(OptimKernels.CHUNK), bad);
        for (double maxNorm : new double[]{0.3, Double.POSITIVE_INFINITY}) {
            TWINS.identical(r -> {
                Tensor scalars = r.in(scalars(1));
                Optim.clip(r.s, r.in(x), maxNorm, scalars);
                return new Tensor[]{scalars};
            });
        }
    }

    /** More chunks than the adding block brings at once. */
    @Test
    void manyChunks() {
        int n = 5000 * OptimKernels.CHUNK + 1;
        Tensor x = Tensor.zeros(DType.F32, n);
        for (int i = 0; i < n; i += 1 + random.nextInt(200)) {
            x.set(i, random.nextGaussian());
        }
        TWINS.identical(r -> {
            Tensor scalars = r.in(scalars(1));
            Optim.clip(r.s, r.in(x), 1, scalars);
            return new Tensor[]{scalars};
        });
    }

    @ParameterizedTest
    @CsvSource({"1,F32", "5003,F32", "700001,F32", "5003,F64"})
    void countsWhatIsNotFinite(int n, DType type) {
        Tensor x = values(type, n, 1, false);
        long bad = 0;
        for (int i = 0; i < n; i++) {
            bad += Double.isFinite(x.get(i)) ? 0 : 1;
        }
        try (Stream s = TWINS.cuda.openStream()) {
            assertThat(Optim.nonFinite(s, Gpu.device(TWINS.cuda, x))).isEqualTo(bad);
        }
    }
}
