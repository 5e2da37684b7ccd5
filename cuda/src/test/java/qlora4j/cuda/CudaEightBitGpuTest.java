package qlora4j.cuda;

import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.EightBitKernels;
import qlora4j.optim.OptimScalars;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** AdamW with moments in 8 bits: the bits of the scalar backend, in whole blocks and a part of one. */
@Tag("gpu")
class CudaEightBitGpuTest {
    private static final Twins TWINS = new Twins();
    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
    }

    private static Tensor scalars() {
        Tensor t = Tensor.zeros(DType.F64, OptimScalars.SIZE);
        t.set(OptimScalars.LEARNING_RATE, 3e-3);
        t.set(OptimScalars.CORRECTION1, 1f - (float) Math.pow(0.9f, 7));
        t.set(OptimScalars.CORRECTION2, Math.sqrt(1f - (float) Math.pow(0.999f, 7)));
        t.set(OptimScalars.CLIP_SCALE, 0.3700000001);
        return t;
    }

    private Tensor codes(int n) {
        Tensor t = Tensor.zeros(DType.U8, n);
        for (int i = 0; i < n; i++) {
            t.set(i, random.nextInt(256));
        }
        return t;
    }

    private Tensor constants(int blocks) {
        Tensor t = Tensor.zeros(DType.F32, blocks);
        for (int i = 0; i < blocks; i++) {
            t.set(i, i % 3 == 2 ? 0 : Math.exp(random.nextGaussian()));
        }
        return t;
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 31, 255, 256, 257, 3000})
    void sameBits(int n) {
        int blocks = Math.ceilDiv(n, EightBitKernels.BLOCK);
        Tensor params = Gpu.normal(random, DType.F32, n);
        Tensor grads = Gpu.normal(random, DType.F32, n);
        for (int i = 2 * EightBitKernels.BLOCK; i < Math.min(n, 3 * EightBitKernels.BLOCK); i++) {
            grads.set(i, 0);
        }
        grads.set(n / 2, Double.NaN);
        grads.set(n / 3, n > 3 ? Double.NEGATIVE_INFINITY : 1);
        Tensor codes1 = codes(n);
        Tensor codes2 = codes(n);
        Tensor absmax1 = constants(blocks);
        Tensor absmax2 = constants(blocks);
        AdamHyper hyper = AdamHyper.defaults(AdamHyper.Formula.BITSANDBYTES).withEightBit().withWeightDecay(0.01);
        TWINS.identical(run -> {
            Tensor[] updated = {run.in(params), run.in(codes1), run.in(codes2), run.in(absmax1), run.in(absmax2)};
            run.s.kernels(EightBitKernels.class).adamW8(run.s, hyper, updated[0], run.in(grads), updated[1],
                    updated[2], updated[3], updated[4], run.in(scalars()));
            return updated;
        });
    }
}
