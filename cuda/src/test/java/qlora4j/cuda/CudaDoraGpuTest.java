package qlora4j.cuda;

import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.lora.DoraKernels;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** DoRA's steps against the scalar backend at sizes around a warp and a block. */
@Tag("gpu")
class CudaDoraGpuTest {
    private static final Twins TWINS = new Twins();
    private final Random random = new Random(Gpu.SEED);

    @AfterAll
    static void close() {
        TWINS.close();
    }

    private static DoraKernels kernels(Twins.Run run) {
        return run.s.kernels(DoraKernels.class);
    }

    @ParameterizedTest
    @CsvSource({"F32,1,1", "BF16,3,31", "F32,33,257", "BF16,70,1000", "F32,5,4096"})
    void rowSquares(DType type, int rows, int cols) {
        Tensor w = Gpu.normal(random, type, rows, cols);
        TWINS.close(run -> {
            Tensor squares = run.out(DType.F32, rows);
            kernels(run).rowSquares(run.s, run.in(w), squares);
            return new Tensor[]{squares};
        }, cols, cols, 0);
    }

    @ParameterizedTest
    @CsvSource({"1,1", "7,3", "9,32", "300,33", "64,64"})
    void gain(int out, int r) {
        Tensor wa = Gpu.normal(random, DType.F32, r, out);
        Tensor aa = Gpu.normal(random, DType.F32, r, r);
        Tensor b = Gpu.normal(random, DType.F32, out, r);
        Tensor magnitude = Gpu.normal(random, DType.F32, out);
        Tensor squares = Tensor.zeros(DType.F32, out).fill(40.0 * r * r);
        squares.set(out / 2, 0);
        for (int k = 0; k < r; k++) {
            b.set((long) (out / 2) * r + k, 0);
        }
        TWINS.close(run -> {
            Tensor norm = run.out(DType.F32, out);
            Tensor gain = run.out(DType.F32, out);
            kernels(run).gain(run.s, run.in(squares), run.in(wa), run.in(aa), run.in(b), 0.5, run.in(magnitude), norm,
                    gain);
            return new Tensor[]{norm, gain};
        }, r, 1, 0);
    }

    @ParameterizedTest
    @CsvSource({"F32,1,1,true", "BF16,3,31,true", "F32,33,257,false", "BF16,70,100,false"})
    void scaleColumns(DType type, int rows, int cols, boolean all) {
        Tensor x = Gpu.normal(random, type, rows, cols);
        Tensor residual = all ? Gpu.normal(random, type, rows, cols) : null;
        Tensor bias = all ? Gpu.normal(random, type, cols) : null;
        Tensor gain = all ? Gpu.normal(random, DType.F32, cols) : null;
        TWINS.close(run -> {
            Tensor out = run.out(type, rows, cols);
            kernels(run).scaleColumns(run.s, run.in(x), all ? run.in(gain) : null, -1.25,
                    all ? run.in(residual) : null, all ? run.in(bias) : null, out);
            return new Tensor[]{out};
        }, 3, 10, 1);
    }

    @ParameterizedTest
    @CsvSource({"F32,1,1,true", "BF16,9,31,true", "F32,700,33,false", "BF16,65,100,true"})
    void sumColumns(DType type, int rows, int cols, boolean all) {
        Tensor dy = Gpu.normal(random, type, rows, cols);
        Tensor z = Gpu.normal(random, type, rows, cols);
        Tensor norm = Gpu.normal(random, DType.F32, cols);
        for (int j = 0; j < cols; j++) {
            norm.set(j, j % 5 == 4 ? 0 : 0.5 + Math.abs(norm.get(j)));
        }
        Tensor before = Gpu.normal(random, DType.F32, cols);
        TWINS.close(run -> {
            Tensor sum = run.in(before);
            kernels(run).sumColumns(run.s, run.in(dy), all ? run.in(z) : null, all ? run.in(norm) : null, sum);
            return new Tensor[]{sum};
        }, rows, 20 * Math.sqrt(rows), 0);
    }
}
