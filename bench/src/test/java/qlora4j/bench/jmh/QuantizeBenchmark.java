package qlora4j.bench.jmh;

import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.Warmup;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.tensor.Tensor;

/** Quantizing and dequantizing a matrix in NF4 with double quantization. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class QuantizeBenchmark {
    /** Rows x columns. */
    @Param("4096x14336")
    String matrix;

    private Tensor x;
    private Tensor out;
    private QuantizedTensor w;

    @Setup
    public void setUp(Bed bed) {
        int[] size = Sizes.matrix(matrix);
        x = bed.random(size[0], size[1]);
        out = bed.zeros(bed.dtype, size[0], size[1]);
        w = Blockwise.quantize(bed.stream, x, QuantConfig.QLORA);
    }

    @Benchmark
    public QuantizedTensor quantize(Bed bed) {
        Blockwise.quantize(bed.stream, x, w);
        return w;
    }

    @Benchmark
    public Tensor dequantize(Bed bed) {
        Blockwise.dequantize(bed.stream, w, out);
        return out;
    }
}
