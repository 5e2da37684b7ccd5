package qlora4j.bench.jmh;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import qlora4j.bench.Ceilings;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What benchmarks cost at least, counted by hand. */
class CostTest {
    private static Cost of(String benchmark, Map<String, String> parameters) {
        return Cost.of(benchmark, parameters::get);
    }

    @Test
    void aMatvecReadsTheBytesOfItsMatrix() {
        try (Backend cpu = Backends.open(Backend.CPU, null, 1); Stream s = cpu.openStream()) {
            long bytes = Blockwise.quantize(s, Tensor.zeros(DType.F32, 256, 512), QuantConfig.QLORA).bytes();
            // The offset, which is one for the whole matrix, is left out.
            assertThat(of("ProductBenchmark.forward", Map.of("matrix", "256x512", "m", "1")).read())
                    .isEqualTo(bytes - 4);
        }
    }

    @Test
    void productsOfManyRowsAreBoundByArithmetic() {
        Cost c = of("OpenBlasBenchmark.backward", Map.of("matrix", "4096x14336", "m", "64"));
        assertThat(c.flops()).isEqualTo(2.0 * 64 * 4096 * 14336);
        assertThat(c.amount() / c.leastSeconds(new Ceilings(1, 1, 2e11, List.of()))).isCloseTo(200, within(1e-9));
    }

    @Test
    void causalAttentionSeesHalfOfAllPairs() {
        Map<String, String> p = Map.of("sequences", "4", "length", "3");
        double pairs = 1 + 2 + 3;
        assertThat(of("AttentionBenchmark.forward", p).flops()).isEqualTo(4 * pairs * 9 * 64 * 4);
        assertThat(of("AttentionBenchmark.backward", p).flops()).isEqualTo(2.5 * 4 * pairs * 9 * 64 * 4);
    }

    @Test
    void decodingIsAPromptAndThenBytesForEachToken() {
        Cost c = of("ModelBenchmark.decode",
                Map.of("shape", "smollm2-135m", "batch", "1", "length", "8", "prompt", "64",
                        "type", "float32"));
        // 106.2 M parameters in NF4, a head of 49152 x 576, keys and values of 128 tokens (the mean) in 30 layers.
        double each = 106.2e6 * 4.127 / 8 + 49152 * 576 * 4 + 128 * 30 * 2 * 3 * 64 * 4;
        assertThat(c.read() / 127).isCloseTo(each, within(1e-3 * each));
        assertThat(c.leastSeconds(new Ceilings(1, 1e9, Double.POSITIVE_INFINITY, List.of()))).isEqualTo(c.read() / 1e9);
    }

    @Test
    void smallOperationsAreHeldAgainstACopyOfAsManyBytes() {
        Cost c = of("LayerBenchmark.swiglu", Map.of("rows", "1024", "intermediate", "1536", "type", "bfloat16"));
        assertThat(c.moved()).isEqualTo(3.0 * 1024 * 1536 * 2).isEqualTo(c.footprint());
    }
}
