package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.cuda.SummedProducts.Output;
import qlora4j.cuda.SummedProducts.Term;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Sums of products ({@code gemm_hopper.cu}) against float64: one to six terms of awkward sizes, up to three outputs,
 * residual and bias, operands that are columns of a wider matrix, and C that is its own residual. Sums are float32 of
 * products that are exact, so that the bound is the contract's and one rounding to bfloat16.
 */
@Tag("gpu")
class SummedProductsGpuTest {
    private static CudaBackend cuda;
    private static SummedProducts summed;
    /** On one pair of multiprocessors, which makes all tiles one after the other. */
    private static SummedProducts oneByOne;
    private final Random random = new Random(Gpu.SEED);

    @BeforeAll
    static void open() {
        cuda = Gpu.open();
        assumeTrue(cuda.modules().hopper("gemm_hopper"), "compute capability 9.0 is not there");
        summed = new SummedProducts(cuda);
        oneByOne = new SummedProducts(cuda, 2);
    }

    @AfterAll
    static void close() {
        cuda.close();
    }

    /** An output with what it must become. */
    private record Expected(Output output, Tensor c, Tensor sum, Tensor magnitude) {
    }

    /** A matrix of which the device has more columns on both sides. */
    private Matrix operand(int rows, int cols, double[][] values) {
        int before = 8 * random.nextInt(3);
        Tensor wide = Gpu.normal(random, DType.BF16, rows, before + Math.ceilDiv(cols, 8) * 8 + 8L * random.nextInt(2));
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < cols; j++) {
                values[i][j] = wide.get((long) i * wide.cols() + before + j);
            }
        }
        return Matrix.of(Gpu.device(cuda, wide)).columns(before, cols);
    }

    private Expected expected(Layout layout, int m, int n, int[] depths, boolean more, boolean inPlace) {
        Tensor sum = Tensor.zeros(DType.F64, m, n);
        Tensor magnitude = Tensor.zeros(DType.F64, m, n);
        List<Term> terms = new ArrayList<>();
        for (int k : depths) {
            double[][] a = new double[m][k];
            double[][] b = layout == Layout.NT ? new double[n][k] : new double[k][n];
            terms.add(new Term(operand(m, k, a), operand(b.length, b[0].length, b)));
            for (int i = 0; i < m; i++) {
                for (int j = 0; j < n; j++) {
                    double s = 0;
                    double t = 0;
                    for (int l = 0; l < k; l++) {
                        double p = a[i][l] * (layout == Layout.NT ? b[j][l] : b[l][j]);
                        s += p;
                        t += Math.abs(p);
                    }
                    add(sum, magnitude, (long) i * n + j, s, t);
                }
            }
        }
        Tensor bias = more && layout == Layout.NT ? Gpu.normal(random, DType.BF16, n) : null;
        Tensor residual = more || inPlace ? Gpu.normal(random, DType.BF16, m, n) : null;
        for (long i = 0; i < sum.size(); i++) {
            double r = residual == null ? 0 : residual.get(i);
            double o = bias == null ? 0 : bias.get(i % n);
            add(sum, magnitude, i, r + o, Math.abs(r) + Math.abs(o));
        }
        Tensor c = inPlace ? Gpu.device(cuda, residual) : Gpu.poisoned(cuda, DType.BF16, m, n);
        Matrix r = inPlace ? Matrix.of(c) : residual == null ? null : Matrix.of(Gpu.device(cuda, residual));
        return new Expected(new Output(Matrix.of(c), r, bias == null ? null : Gpu.device(cuda, bias), terms), c, sum,
                magnitude);
    }

    private static void add(Tensor sum, Tensor magnitude, long at, double s, double t) {
        sum.set(at, sum.get(at) + s);
        magnitude.set(at, magnitude.get(at) + t);
    }

    private static int[] ints(String list) {
        return java.util.Arrays.stream(list.split(" ")).mapToInt(Integer::parseInt).toArray();
    }

    @ParameterizedTest
    @CsvSource({"1,8,8,false,false", "130,264,72,true,false", "256,256,64 64,false,false", "300,520,320 24,false,true",
            "70,1024 264 8,200 8,true,false", "513,16,8 16 24 600 64 72,true,true", "257,64 300,64 128 200,false,false",
            "900,264,40,true,true", "300,600 264,900,true,false",
            "600,520,64 840,false,true", "130,1032,832,true,true"})
    void equalFloat64(int m, String widths, String depths, boolean more, boolean inPlace) {
        equalFloat64(summed, m, widths, depths, more, inPlace);
        equalFloat64(oneByOne, m, widths, depths, more, inPlace);
    }

    private void equalFloat64(SummedProducts products, int m, String widths, String depths, boolean more,
            boolean inPlace) {
        for (Layout layout : List.of(Layout.NT, Layout.NN)) {
            List<Expected> all = new ArrayList<>();
            for (int n : ints(widths)) {
                all.add(expected(layout, m, n / 8 * 8, ints(depths), more, inPlace));
            }
            List<Output> outputs = all.stream().map(Expected::output).toList();
            assertThat(products.can(layout, outputs)).isTrue();
            try (CudaStream s = (CudaStream) cuda.openStream()) {
                products.multiply(s, layout, outputs);
            }
            for (Expected e : all) {
                Products64.within(Tensor.zeros(DType.BF16, e.sum.shape()).copyFrom(e.sum), Gpu.host(cuda, e.c),
                        e.magnitude, 1000 * Twins.EPSILON);
            }
        }
    }

    @Test
    void repeatsBitForBit() {
        Expected e = expected(Layout.NN, 700, 1024, new int[]{300, 64}, true, false);
        try (CudaStream s = (CudaStream) cuda.openStream()) {
            summed.multiply(s, Layout.NN, List.of(e.output));
            float[] first = Gpu.host(cuda, e.c).toFloats();
            summed.multiply(s, Layout.NN, List.of(e.output));
            assertThat(Gpu.host(cuda, e.c).toFloats()).isEqualTo(first);
        }
    }

    /** A residual comes by the copy engine to where others were read from a moment before: nothing may depend on when. */
    @ParameterizedTest
    @CsvSource({"130,1032,832", "600,2056,1088"})
    void repeatsHoweverCopiesArrive(int m, int n, int k) {
        for (Layout layout : List.of(Layout.NT, Layout.NN)) {
            Matrix a = Matrix.of(Gpu.device(cuda, Gpu.normal(random, DType.BF16, m, k)));
            Matrix b = Matrix.of(Gpu.device(cuda, layout == Layout.NT ? Gpu.normal(random, DType.BF16, n, k)
                    : Gpu.normal(random, DType.BF16, k, n)));
            Matrix residual = Matrix.of(Gpu.device(cuda, Gpu.normal(random, DType.BF16, m, n)));
            Tensor c = Gpu.poisoned(cuda, DType.BF16, m, n);
            List<Output> output = List.of(new Output(Matrix.of(c), residual, null, List.of(new Term(a, b))));
            try (CudaStream s = (CudaStream) cuda.openStream()) {
                summed.multiply(s, layout, output);
                float[] first = Gpu.host(cuda, c).toFloats();
                for (int i = 0; i < 60; i++) {
                    (i % 2 == 0 ? oneByOne : summed).multiply(s, layout, output);
                    assertThat(Gpu.host(cuda, c).toFloats()).isEqualTo(first);
                }
            }
        }
    }

    /** What the copy engine cannot address, and what would leave most multiprocessors idle, goes elsewhere. */
    @Test
    void refusesWhatItCannotDo() {
        Matrix x = Matrix.of(Gpu.device(cuda, Gpu.normal(random, DType.BF16, 512, 64)));
        Matrix w = Matrix.of(Gpu.device(cuda, Gpu.normal(random, DType.BF16, 8192, 64)));
        Matrix y = Matrix.of(Gpu.poisoned(cuda, DType.BF16, 512, 8192));
        List<Output> good = List.of(new Output(y, null, null, List.of(new Term(x, w))));
        assertThat(summed.takes(Layout.NT, good)).isTrue();
        assertThat(summed.takes(Layout.TN, good)).isFalse();
        assertThat(summed.takes(Layout.NT, List.of(new Output(y, null, null, List.of(new Term(x.columns(4, 32), w))))))
                .isFalse();
        Matrix few = new Matrix(y.address(), DType.BF16, 512, 512, 512);
        assertThat(summed.takes(Layout.NT, List.of(new Output(few, null, null, List.of(new Term(x, w)))))).isFalse();
        Matrix floats = new Matrix(y.address(), DType.F32, 512, 4096, 4096);
        assertThat(summed.takes(Layout.NT, List.of(new Output(floats, null, null, List.of(new Term(x, w))))))
                .isFalse();
    }
}
