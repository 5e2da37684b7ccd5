package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraKernels.Around;
import qlora4j.lora.LoraPair;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Layers of one input in one operation ({@code nf4_matvec_two.cu} and its like for up to eight rows), forward and, where rows are many,
 * backward, against the scalar backend, with and without adapters of several ranks and biases. In float32 the bound is
 * the contract's; in bfloat16 the operands are the same on both sides, so that only u, du, A and B, which are rounded
 * where there are many rows, and y and dx, to which three layers add, are rounded by 2^-8 beyond it.
 */
@Tag("gpu")
class CudaTogetherGpuTest {
    private static final Twins TWINS = new Twins();
    /** With sums of products of {@code gemm_hopper.cu} at all sizes. */
    private static final Twins SUMMED = Twins.with(SummedProducts.PROPERTY, "always");
    private static final double BF16_ROUNDINGS = 8 * 0x1p-8;
    private final Random seeds = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
        SUMMED.close();
    }

    private record Case(long seed, int n, int in, int[] outs, int rank, int blocksize, boolean nested, DType type,
            int adapted) {
        Tensor[] run(Twins.Run run, boolean magnitudes) {
            Random random = new Random(seed);
            QuantConfig config = new QuantConfig(QuantType.NF4, blocksize, nested);
            List<Linear> layers = new ArrayList<>();
            Tensor[] y = new Tensor[outs.length];
            Tensor[] dy = new Tensor[outs.length];
            List<Tensor> outputs = new ArrayList<>();
            for (int i = 0; i < outs.length; i++) {
                int out = outs[i];
                QuantizedTensor q = Blockwise.quantize(run.s, run.in(Gpu.normal(random, type, out, in)), config);
                Tensor back = Tensor.zeros(type, out, in);
                if (magnitudes) {
                    Blockwise.dequantize(run.s, q, back);
                }
                layers.add(new Linear("layer" + i, i, magnitudes
                        ? new LinearWeight.Dense(run.in(back.copyFrom(Products64.magnitude(back))))
                        : new LinearWeight.Quantized(q), i == 1 ? input(run, random, magnitudes, type, out) : null));
                int r = rank + 5 * rank * i;
                Tensor a = input(run, random, magnitudes, DType.F32, r, in);
                Tensor b = input(run, random, magnitudes, DType.F32, out, r);
                if ((adapted >> i & 1) != 0) {
                    Tensor dA = run.in(Tensor.zeros(DType.F32, r, in));
                    Tensor dB = run.in(Tensor.zeros(DType.F32, out, r));
                    layers.get(i).set(0, new LoraPair(a, b, 0.5, dA, dB));
                    outputs.addAll(List.of(dA, dB));
                }
                y[i] = run.out(type, n, out);
                dy[i] = input(run, random, magnitudes, type, n, out);
            }
            Tensor x = input(run, random, magnitudes, type, n, in);
            Tensor dx = run.out(type, n, in);
            Linear.Inner u = Linear.forward(run.s, Adapters.of(0), layers, x, y);
            if (n > CudaMatmul.FEW_ROWS) {
                Linear.backward(run.s, Adapters.of(0), layers, dy, x, u, dx);
                outputs.add(dx);
            }
            run.s.release(u.memory());
            outputs.addAll(List.of(y));
            return outputs.toArray(Tensor[]::new);
        }

        private static Tensor input(Twins.Run run, Random random, boolean magnitudes, DType type, long... shape) {
            Tensor t = Gpu.normal(random, type, shape);
            return run.in(magnitudes ? Tensor.zeros(type, shape).copyFrom(Products64.magnitude(t)) : t);
        }
    }

    @ParameterizedTest
    @CsvSource({"1,128,64,true,BF16,0", "1,2048,64,true,BF16,7", "2,4352,64,true,BF16,5", "1,512,128,false,BF16,2",
            "2,96,32,true,BF16,2", "3,4128,64,true,BF16,5",
            "8,1024,128,false,BF16,7", "5,320,1024,true,BF16,3", "7,2176,64,true,BF16,4", "1,512,64,true,F32,7",
            "40,256,64,true,BF16,6", "1,100,64,true,BF16,1", "70,320,64,true,BF16,7", "130,96,32,false,BF16,5",
            "33,104,64,true,BF16,2", "64,256,64,true,F32,7"})
    void equalsScalar(int n, int in, int blocksize, boolean nested, DType type, int adapted) {
        for (int[] outs : new int[][]{{70, 33, 16}, {1, 300}, {in > 4200 ? 130 : 2200}}) {
            equalsScalar(TWINS, new Case(seeds.nextLong(), n, in, outs, 6, blocksize, nested, type, adapted));
        }
    }

    @ParameterizedTest
    @CsvSource({"140,40,264 72 64,7", "300,264,40 72 64,7", "70,96,280 16,2", "130,296,64 40 72,0", "9,64,40 33,1"})
    void sumsOfProductsEqualScalar(int n, int in, String outs, int adapted) {
        int[] widths = java.util.Arrays.stream(outs.split(" ")).mapToInt(Integer::parseInt).toArray();
        equalsScalar(SUMMED, new Case(seeds.nextLong(), n, in, widths, 8, 64, true, DType.BF16, adapted));
    }

    /**
     * Layers with their norm and SwiGLU around them: whether the kernel does all or each is an operation of its own. A
     * neighbour of x after the norm is 2^-7 away, after its weight 2^-7 more; SwiGLU's error is at most 2.1 times, and
     * its value at least half, that of {@code gate·up}.
     */
    @ParameterizedTest
    @CsvSource({"1,256,64,true,0,8", "1,4096,64,true,0,0", "1,1024,64,true,3,8", "1,2048,64,true,1,64",
            "2,512,128,false,2,8", "8,768,64,true,3,12", "2,4352,64,true,3,5", "2,512,256,true,1,8",
            "1,320,64,true,3,8",
            "1,512,32,true,3,8", "12,512,64,true,3,8"})
    void withWhatStandsAround(int n, int in, int blocksize, boolean nested, int adapted, int rank) {
        boolean fused = n <= 2 && in % 256 == 0 && blocksize == 64 && nested;
        // At 2200 rows some blocks have two tiles of each.
        for (int[] outs : new int[][]{{33, 33}, {1, 1}, in == 256 ? new int[]{2200, 2200} : new int[]{70, 70},
                {16, 40, 7}}) {
            long seed = seeds.nextLong();
            boolean gated = outs.length == 2;
            Tensor[][] both = TWINS.run(run -> around(run, seed, n, in, outs, blocksize, nested, adapted, rank, false));
            Tensor[] magnitude = TWINS
                    .onScalar(run -> around(run, seed, n, in, outs, blocksize, nested, adapted, rank, true));
            int last = both[1].length - 1;
            assertThat(Double.isNaN(both[1][last].get(0))).as("the norm's output is not written").isEqualTo(fused);
            Twins.within(new Tensor[][]{Arrays.copyOf(both[0], last), Arrays.copyOf(both[1], last)}, magnitude,
                    (gated ? 5 : 1) * (Twins.EPSILON * (2 * in + 80) + BF16_ROUNDINGS + 2 * Twins.BF16_EPSILON));
        }
    }

    private static Tensor[] around(Twins.Run run, long seed, int n, int in, int[] outs, int blocksize, boolean nested,
            int adapted, int rank, boolean magnitudes) {
        Random random = new Random(seed);
        DType type = DType.BF16;
        QuantConfig config = new QuantConfig(QuantType.NF4, blocksize, nested);
        List<Linear> layers = new ArrayList<>();
        Tensor[] y = new Tensor[outs.length];
        for (int i = 0; i < outs.length; i++) {
            Tensor dense = Gpu.normal(random, type, outs[i], in);
            for (long e = 0; e < dense.size(); e++) {
                dense.set(e, dense.get(e) / Math.sqrt(in));
            }
            QuantizedTensor q = Blockwise.quantize(run.s, run.in(dense), config);
            Tensor back = Tensor.zeros(type, outs[i], in);
            if (magnitudes) {
                Blockwise.dequantize(run.s, q, back);
            }
            layers.add(new Linear("layer" + i, i, magnitudes
                    ? new LinearWeight.Dense(run.in(back.copyFrom(Products64.magnitude(back))))
                    : new LinearWeight.Quantized(q),
                    i == 1 ? Case.input(run, random, magnitudes, type, outs[i]) : null));
            int r = rank + (i == 2 ? 3 : 4 * i);
            Tensor a = Case.input(run, random, magnitudes, DType.F32, r, in);
            Tensor b = Case.input(run, random, magnitudes, DType.F32, outs[i], r);
            if ((adapted >> i & 1) != 0) {
                layers.get(i).set(0, new LoraPair(a, b, 0.01, null, null));
            }
            y[i] = run.out(type, n, outs[i]);
        }
        Tensor h = Case.input(run, random, magnitudes, type, n, in);
        Tensor weight = Case.input(run, random, magnitudes, type, in);
        Tensor x = run.out(type, n, in);
        Tensor rstd = run.out(DType.F32, n);
        boolean gated = outs.length == 2;
        Tensor product = gated ? run.out(type, n, outs[0]) : null;
        Around around = new Around(h, weight, 1e-5, () -> DecoderOps.rmsNorm(run.s, h, weight, 1e-5, x, rstd), product,
                DecoderOps.SWIGLU);
        run.s.release(Linear.forward(run.s, Adapters.of(0), layers, around, x, y).memory());
        if (!gated) {
            return new Tensor[]{y[0], y[1], y[2], x};
        }
        // The same bits again, by the counts that the first launch left.
        Tensor again = run.out(type, n, outs[0]);
        Linear.Inner u = Linear.forward(run.s, Adapters.of(0), layers, new Around(h, weight, 1e-5, around.norm(), again,
                DecoderOps.SWIGLU), x, y);
        run.s.release(u.memory());
        return new Tensor[]{product, again, x};
    }

    private static void equalsScalar(Twins twins, Case c) {
        Tensor[][] both = twins.run(run -> c.run(run, false));
        Tensor[] magnitude = twins.onScalar(run -> c.run(run, true));
        double relative = Twins.EPSILON * (c.in + 80 + (c.n > CudaMatmul.FEW_ROWS ? c.n + 2200 : 0))
                + (c.type == DType.BF16 ? BF16_ROUNDINGS : 0);
        Twins.within(both, magnitude, relative);
    }
}
