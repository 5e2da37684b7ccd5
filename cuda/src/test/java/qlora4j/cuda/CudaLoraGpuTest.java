package qlora4j.cuda;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Dropout;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * The layer with adapters against the scalar backend: forward, backward, one adapter for all rows or one for each,
 * dropout, residual, bias, dense and 4-bit weights. The bound is the numeric contract's {@code n·ε·Σ|aᵢ·bᵢ|}, the sum of
 * magnitudes being what the scalar backend gives for the magnitudes of all inputs. In bfloat16, each of the at most
 * twelve tensors between an input and an output (operands of the tensor cores included) is rounded by 2^-8 of that.
 */
@Tag("gpu")
class CudaLoraGpuTest {
    private static final Twins TWINS = new Twins();
    /** With sums of products of {@code gemm_hopper.cu} at all sizes. */
    private static final Twins SUMMED = Twins.with(SummedProducts.PROPERTY, "always");
    private static final double BF16_ROUNDINGS = 12 * 0x1p-8;
    private final Random seeds = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
        SUMMED.close();
    }

    private record Case(long seed, int n, int in, int out, int rank, DType type, boolean nf4, boolean byRow, double p) {
        Tensor[] run(Twins.Run run, boolean magnitudes) {
            Random random = new Random(seed);
            List<Tensor> outputs = new ArrayList<>();
            Tensor dense = Gpu.normal(random, type, out, in);
            LinearWeight weight = weight(run, dense, magnitudes);
            Tensor dW = nf4 ? null : zeros(run, outputs, out, in);
            Tensor dBias = zeros(run, outputs, out);
            Linear linear = new Linear("layer", 2, weight, input(run, random, magnitudes, type, out),
                    weight instanceof LinearWeight.Dense ? dW : null, dBias);
            for (int slot = 0; slot < 2; slot++) {
                int r = Math.max(1, rank - slot);
                Tensor a = input(run, random, magnitudes, DType.F32, r, in);
                Tensor b = input(run, random, magnitudes, DType.F32, out, r);
                linear.set(slot, new LoraPair(a, b, 0.5, zeros(run, outputs, r, in), zeros(run, outputs, out, r)));
            }
            int[] rows = new int[n];
            int[] sample = new int[n];
            int[] position = new int[n];
            for (int i = 0; i < n; i++) {
                rows[i] = i / 3 % 3 - 1;
                sample[i] = 5 + i / 3;
                position[i] = i % 3;
            }
            Dropout dropout = p == 0 ? null
                    : new Dropout(p, 0x123456789abcdefL, run.ints(7), run.ints(sample), run.ints(position));
            Adapters adapters = new Adapters(0, byRow ? run.ints(rows) : null, dropout);
            Tensor x = input(run, random, magnitudes, type, n, in);
            Tensor residual = input(run, random, magnitudes, type, n, out);
            Tensor dy = input(run, random, magnitudes, type, n, out);
            Tensor added = input(run, random, magnitudes, type, n, in);
            Tensor y = run.out(type, n, out);
            Tensor bare = run.out(type, n, out);
            Tensor dx = run.out(type, n, in);
            Tensor u = linear.forward(run.s, adapters, x, residual, y);
            linear.backward(run.s, adapters, dy, x, u, false, dx);
            linear.backward(run.s, adapters, dy, x, u, true, added);
            run.s.release(u);
            linear.forward(run.s, Adapters.NONE, x, null, bare);
            outputs.addAll(List.of(y, bare, dx, added));
            return outputs.toArray(Tensor[]::new);
        }

        private LinearWeight weight(Twins.Run run, Tensor dense, boolean magnitudes) {
            if (!nf4) {
                return new LinearWeight.Dense(run.in(magnitudes ? narrow(Products64.magnitude(dense)) : dense));
            }
            QuantizedTensor q = Blockwise.quantize(run.s, run.in(dense), QuantConfig.QLORA);
            if (!magnitudes) {
                return new LinearWeight.Quantized(q);
            }
            Tensor back = Tensor.zeros(type, out, in);
            Blockwise.dequantize(run.s, q, back);
            return new LinearWeight.Dense(narrow(Products64.magnitude(back)));
        }

        private Tensor narrow(Tensor t) {
            return Tensor.zeros(type, t.shape()).copyFrom(t);
        }

        private static Tensor zeros(Twins.Run run, List<Tensor> outputs, long... shape) {
            outputs.add(run.in(Tensor.zeros(DType.F32, shape)));
            return outputs.getLast();
        }

        private static Tensor input(Twins.Run run, Random random, boolean magnitudes, DType type, long... shape) {
            Tensor t = Gpu.normal(random, type, shape);
            return run.in(magnitudes ? Tensor.zeros(type, shape).copyFrom(Products64.magnitude(t)) : t);
        }
    }

    @ParameterizedTest
    @CsvSource({"1,1,1,1,F32,false,false,0", "3,17,5,2,F32,false,true,0.3", "37,100,33,8,F32,false,false,0.05",
            "37,64,96,5,F32,true,true,0", "18,65,127,3,F32,true,true,0.1", "7,128,31,16,F32,true,false,0.1",
            "2,130,66,4,F32,true,false,0", "19,96,70,4,BF16,true,true,0.1", "5,33,64,3,BF16,false,false,0",
            "1,256,160,64,BF16,true,false,0", "8,256,160,64,BF16,true,true,0.1", "70,320,264,64,BF16,true,false,0.05",
            "300,320,264,64,BF16,true,false,0", "130,128,256,16,BF16,false,true,0", "100,200,40,200,BF16,true,true,0"})
    void equalsScalar(int n, int in, int out, int rank, DType type, boolean nf4, boolean byRow, double p) {
        equalsScalar(TWINS, new Case(seeds.nextLong(), n, in, out, rank, type, nf4, byRow, p));
    }

    @ParameterizedTest
    @CsvSource({"70,320,264,64,BF16,true,false,0.05", "300,320,264,64,BF16,true,false,0",
            "130,64,72,16,BF16,false,false,0", "9,104,40,8,BF16,true,false,0.1"})
    void sumsOfProductsEqualScalar(int n, int in, int out, int rank, DType type, boolean nf4, boolean byRow,
            double p) {
        equalsScalar(SUMMED, new Case(seeds.nextLong(), n, in, out, rank, type, nf4, byRow, p));
    }

    private static void equalsScalar(Twins twins, Case c) {
        Tensor[][] both = twins.run(run -> c.run(run, false));
        Tensor[] magnitude = twins.onScalar(run -> c.run(run, true));
        double relative = Twins.EPSILON * (c.n + c.in + c.out + c.rank + 8)
                + (c.type == DType.BF16 ? BF16_ROUNDINGS : 0);
        Twins.within(both, magnitude, relative);
    }
}
