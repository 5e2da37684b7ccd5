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

/** Products with a matrix in NF4: y = x W', and its gradient dx = dy W. Several copies of W are gone round, more
 * bytes than most caches hold. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class ProductBenchmark {
    /** Rows x columns of W. */
    @Param("4096x14336")
    String matrix;

    /** Rows of x; 1 is the matvec. */
    @Param({"1", "64", "256", "1024"})
    int m;

    private final QuantizedTensor[] w = new QuantizedTensor[8];
    private int turn;
    private Tensor x;
    private Tensor y;
    private Tensor dx;

    @Setup
    public void setUp(Bed bed) {
        int[] size = Sizes.matrix(matrix);
        Tensor dense = bed.random(size[0], size[1]);
        for (int i = 0; i < w.length; i++) {
            w[i] = Blockwise.quantize(bed.stream, dense, QuantConfig.QLORA);
        }
        x = bed.random(m, size[1]);
        y = bed.random(m, size[0]);
        dx = bed.zeros(bed.dtype, m, size[1]);
    }

    @Benchmark
    public Tensor forward(Bed bed) {
        Blockwise.matmul(bed.stream, x, w[turn++ % w.length], y);
        return y;
    }

    @Benchmark
    public Tensor backward(Bed bed) {
        Blockwise.matmulBackward(bed.stream, y, w[turn++ % w.length], false, dx);
        return dx;
    }
}
