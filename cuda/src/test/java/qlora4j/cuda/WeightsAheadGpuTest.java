package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.ArrayList;
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
import qlora4j.lora.Dropout;
import qlora4j.lora.GatedLinear;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraKernels;
import qlora4j.lora.LoraPair;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Tensor;

/**
 * Weights that are dequantized beside the product in front of theirs: the linear layers of a decoder layer, announced as
 * there, forward and backward, are the same bits as without it. Rows of x are so few beside the weights that a part is left to
 * dequantize.
 */
@Tag("gpu")
class WeightsAheadGpuTest {
    private static final CudaBackend AHEAD = open("");
    private static final CudaBackend NEVER = open("never");

    /** With sums of products of {@code gemm_hopper.cu} at all sizes. */
    private static CudaBackend open(String ahead) {
        System.setProperty(SummedProducts.PROPERTY, "always");
        System.setProperty(WeightsAhead.PROPERTY, ahead);
        try {
            return Gpu.openSeparate();
        } finally {
            System.clearProperty(SummedProducts.PROPERTY);
            System.clearProperty(WeightsAhead.PROPERTY);
        }
    }

    @AfterAll
    static void close() {
        AHEAD.close();
        NEVER.close();
    }

    private record Case(long seed, int m, int hidden, int kv, int f, int blocksize, boolean nested, int rank, double p,
            boolean disturbed) {
        private Linear layer(CudaBackend cuda, Random random, int index, int out, int in, List<Tensor> outputs) {
            QuantConfig config = new QuantConfig(index == 1 ? QuantType.FP4 : QuantType.NF4, blocksize, nested);
            long n = (long) out * in;
            byte[] packed = new byte[(int) (n / 2)];
            random.nextBytes(packed);
            Tensor codes = Tensor.zeros(DType.U8, packed.length);
            codes.data().copyFrom(java.lang.foreign.MemorySegment.ofArray(packed));
            long blocks = config.blocks(n);
            Tensor absmax = Tensor.zeros(nested ? DType.U8 : DType.F32, blocks);
            for (long i = 0; i < blocks; i++) {
                absmax.set(i, nested ? random.nextInt(256) : 0.01 * random.nextFloat());
            }
            Tensor absmax2 = nested ? Tensor.zeros(DType.F32, config.nestedBlocks(n)) : null;
            for (long i = 0; nested && i < absmax2.size(); i++) {
                absmax2.set(i, 0.01 * random.nextFloat());
            }
            QuantizedTensor q = new QuantizedTensor(config, DType.BF16, new long[]{out, in}, Gpu.device(cuda, codes),
                    Gpu.device(cuda, absmax), nested ? Gpu.device(cuda, absmax2) : null,
                    nested ? Gpu.device(cuda, Tensor.zeros(DType.F32, 1).fill(0.02)) : null);
            Linear l = new Linear("layer" + index, index, new LinearWeight.Quantized(q), null);
            if (rank > 0) {
                Tensor dA = Gpu.device(cuda, Tensor.zeros(DType.F32, rank, in));
                Tensor dB = Gpu.device(cuda, Tensor.zeros(DType.F32, out, rank));
                l.set(0, new LoraPair(Gpu.device(cuda, Gpu.normal(random, DType.F32, rank, in)),
                        Gpu.device(cuda, Gpu.normal(random, DType.F32, out, rank)), 0.01, dA, dB));
                outputs.addAll(List.of(dA, dB));
            }
            return l;
        }

        private Tensor out(CudaBackend cuda, List<Tensor> outputs, int columns) {
            outputs.add(Gpu.poisoned(cuda, DType.BF16, m, columns));
            return outputs.getLast();
        }

        /** What other operations do with the workspace in between. */
        private void disturb(CudaBackend cuda, CudaStream s) {
            if (disturbed) {
                Random random = new Random(seed);
                Tensor a = Gpu.device(cuda, Gpu.normal(random, DType.F32, 512, 512));
                Tensor b = Gpu.device(cuda, Gpu.normal(random, DType.BF16, 512, 512));
                Matmul.nt(s, a, b, 1, Gpu.poisoned(cuda, DType.F32, 512, 512), false);
            }
        }

        List<Tensor> run(CudaBackend cuda) {
            Random random = new Random(seed);
            List<Tensor> outputs = new ArrayList<>();
            List<Linear> qkv = List.of(layer(cuda, random, 0, hidden, hidden, outputs),
                    layer(cuda, random, 5, kv, hidden, outputs), layer(cuda, random, 6, kv, hidden, outputs));
            List<Linear> o = List.of(layer(cuda, random, 1, hidden, hidden, outputs));
            List<Linear> gated = List.of(layer(cuda, random, 2, f, hidden, outputs),
                    layer(cuda, random, 3, f, hidden, outputs));
            List<Linear> down = List.of(layer(cuda, random, 4, hidden, f, outputs));
            Tensor x = Gpu.device(cuda, Gpu.normal(random, DType.BF16, m, hidden));
            Tensor dy = Gpu.device(cuda, Gpu.normal(random, DType.BF16, m, hidden));
            Tensor step = Gpu.device(cuda, Tensor.of(new int[]{3}, 1));
            Tensor samples = Gpu.device(cuda, Tensor.of(random.ints(m, 0, 9).toArray(), m));
            Adapters use = rank == 0 ? Adapters.NONE
                    : new Adapters(0, null, p == 0 ? null : new Dropout(p, seed, step, samples, samples));
            try (CudaStream s = (CudaStream) cuda.openStream()) {
                GatedLinear.announce(s, use, o, gated);
                Tensor[] y = {out(cuda, outputs, hidden), out(cuda, outputs, kv), out(cuda, outputs, kv)};
                Linear.Inner u1 = Linear.forward(s, use, qkv, x, y);
                GatedLinear.announce(s, use, List.of(), gated);
                Tensor h2 = out(cuda, outputs, hidden);
                Tensor uo = o.getFirst().forward(s, use, y[0], x, h2);
                disturb(cuda, s);
                Linear.announce(s, down);
                Tensor gate = out(cuda, outputs, f);
                Tensor up = out(cuda, outputs, f);
                Tensor middle = out(cuda, outputs, f);
                Linear.Inner u2 = GatedLinear.forward(s, use, gated, h2, gate, up, true, middle, DecoderOps.SWIGLU);
                if (disturbed) {
                    Tensor other = Gpu.device(cuda, Gpu.normal(random, DType.BF16, hidden, f));
                    Blockwise.quantize(s, other, ((LinearWeight.Quantized) down.getFirst().weight()).w());
                }
                Linear.announce(s, qkv);
                Tensor ud = down.getFirst().forward(s, use, middle, h2, out(cuda, outputs, hidden));
                Linear.Inner again = Linear.forward(s, use, qkv, outputs.getLast(), out(cuda, outputs, hidden),
                        out(cuda, outputs, kv), out(cuda, outputs, kv));
                Linear.announce(s, gated);
                GatedLinear.backward(s, use, down.getFirst(), dy, middle, true, ud, gate, up, DecoderOps.SWIGLU);
                Linear.announce(s, o);
                Tensor dn = out(cuda, outputs, hidden);
                Linear.backward(s, use, gated, new Tensor[]{gate, up}, h2, u2, dn);
                disturb(cuda, s);
                Linear.announce(s, qkv);
                Tensor da = out(cuda, outputs, hidden);
                o.getFirst().backward(s, use, dn, y[0], uo, false, da);
                Linear.announce(s, List.of());
                Linear.backward(s, use, qkv, new Tensor[]{da, y[1], y[2]}, x, u1, out(cuda, outputs, hidden));
                s.release(u1.memory(), uo, u2.memory(), ud, again.memory());
            }
            return outputs.stream().map(t -> Gpu.host(cuda, t)).toList();
        }
    }

    @ParameterizedTest
    @CsvSource({"177,64,32,176,64,true,8,0,false", "70,128,64,1032,64,true,0,0,false",
            "300,1024,256,17408,64,true,16,0,false",
            "300,1024,256,17408,64,true,16,0,true", "1100,512,128,17408,128,true,8,0,false",
            "200,256,64,520,64,false,8,0,false", "130,320,64,840,64,true,8,0.3,false"})
    void changesNoNumber(int m, int hidden, int kv, int f, int blocksize, boolean nested, int rank, double p,
            boolean disturbed) {
        assumeTrue(AHEAD.modules().hopper("gemm_hopper"), "compute capability 9.0 is not there");
        Case c = new Case(Gpu.SEED, m, hidden, kv, f, blocksize, nested, rank, p, disturbed);
        long before = ahead(AHEAD);
        List<Tensor> actual = c.run(AHEAD);
        assertThat(ahead(AHEAD) - before).satisfies(n -> assertThat(n > 0).isEqualTo(nested));
        List<Tensor> expected = c.run(NEVER);
        assertThat(ahead(NEVER)).isZero();
        for (int i = 0; i < expected.size(); i++) {
            for (float v : expected.get(i).toFloats()) {
                assertThat(v).as("tensor %d", i).isFinite();
            }
            assertThat(actual.get(i).data().mismatch(expected.get(i).data())).as("tensor %d", i).isEqualTo(-1);
        }
    }

    private static long ahead(CudaBackend cuda) {
        return ((CudaLora) cuda.kernels(LoraKernels.class)).ahead().elements();
    }
}
