package qlora4j.bench.jmh;

import java.util.concurrent.TimeUnit;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.openblas.global.openblas_nolapack;
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
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/** OpenBLAS' sgemm on the dense matrix that {@link ProductBenchmark} has in 4 bits. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class OpenBlasBenchmark {
    /** Rows x columns of W. */
    @Param("4096x14336")
    String matrix;
    /** Rows of x. */
    @Param({"64", "256", "1024"})
    int m;
    /** 0: all processors. */
    @Param("0")
    int threads;

    private int n;
    private int k;
    private FloatPointer w;
    private FloatPointer x;
    private FloatPointer y;

    @Setup
    public void setUp() {
        int count = threads == 0 ? Runtime.getRuntime().availableProcessors() : threads;
        org.bytedeco.openblas.presets.openblas_nolapack.blas_set_num_threads(count);
        int[] size = Sizes.matrix(matrix);
        n = size[0];
        k = size[1];
        w = random((long) n * k);
        x = random((long) m * k);
        y = random((long) m * n);
    }

    private static FloatPointer random(long size) {
        FloatPointer p = new FloatPointer(size);
        for (long i = 0; i < size; i++) {
            p.put(i, (i * 2654435761L >>> 8 & 0xffff) / 65536f - 0.5f);
        }
        return p;
    }

    /** y = x W'. */
    @Benchmark
    public FloatPointer forward() {
        openblas_nolapack.cblas_sgemm(openblas_nolapack.CblasRowMajor, openblas_nolapack.CblasNoTrans,
                openblas_nolapack.CblasTrans, m, n, k, 1, x, k, w, k, 0, y, n);
        return y;
    }

    /** dx = dy W. */
    @Benchmark
    public FloatPointer backward() {
        openblas_nolapack.cblas_sgemm(openblas_nolapack.CblasRowMajor, openblas_nolapack.CblasNoTrans,
                openblas_nolapack.CblasNoTrans, m, k, n, 1, y, n, w, k, 0, x, k);
        return x;
    }

    @TearDown
    public void tearDown() {
        w.close();
        x.close();
        y.close();
    }
}
