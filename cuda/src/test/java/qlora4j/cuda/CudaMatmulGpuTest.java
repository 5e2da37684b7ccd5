package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Dense products against float64 at awkward sizes and all types, with cuBLAS where it is installed and without. */
@Tag("gpu")
class CudaMatmulGpuTest {
    private static final int TRIES = 120;
    private static final int[] SIZES = {1, 2, 3, 7, 8, 9, 16, 17, 33, 64, 65, 100, 128, 200, 264};
    private static final DType[] TYPES = {DType.F32, DType.BF16};

    private final Random random = new Random(Gpu.SEED);

    private static CudaBackend open(String cublas) {
        String before = System.getProperty(Cublas.PROPERTY);
        if (!cublas.isEmpty()) {
            System.setProperty(Cublas.PROPERTY, cublas);
        }
        try {
            return Gpu.open();
        } finally {
            if (before == null) {
                System.clearProperty(Cublas.PROPERTY);
            } else {
                System.setProperty(Cublas.PROPERTY, before);
            }
        }
    }

    private DType type() {
        return TYPES[random.nextInt(TYPES.length)];
    }

    private int size() {
        return SIZES[random.nextInt(SIZES.length)];
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "none"})
    void products(String cublas) {
        try (Backend scalar = Backends.open(Backend.SCALAR); CudaBackend cuda = open(cublas)) {
            System.out.println(cuda.describe());
            for (int i = 0; i < TRIES; i++) {
                Products.Layout layout = Products.Layout.values()[i % 3];
                int m = size();
                int n = size();
                int k = i % 10 == 9 ? 0 : i % 10 == 8 ? 2056 : size();
                boolean one = i % 2 == 0;
                DType a = type();
                DType b = one ? a : type();
                DType c = one && a == DType.F32 ? a : type();
                compare(scalar, cuda, layout, m, n, k, a, b, c, random.nextBoolean());
            }
        }
    }

    private void compare(Backend scalar, CudaBackend cuda, Products.Layout layout, int m, int n, int k, DType ta,
            DType tb, DType tc, boolean accumulate) {
        Tensor a = layout == Products.Layout.TN ? Gpu.normal(random, ta, k, m) : Gpu.normal(random, ta, m, k);
        Tensor b = layout == Products.Layout.NT ? Gpu.normal(random, tb, n, k) : Gpu.normal(random, tb, k, n);
        Tensor before = Gpu.normal(random, tc, m, n);
        Tensor expected = Tensor.zeros(DType.F64, m, n);
        Tensor magnitude = Tensor.zeros(DType.F64, m, n);
        if (accumulate) {
            expected.copyFrom(before);
            magnitude.copyFrom(Products64.magnitude(before));
        }
        Tensor c = accumulate ? Gpu.device(cuda, before) : Gpu.poisoned(cuda, tc, m, n);
        try (Stream s = scalar.openStream(); Stream gpu = cuda.openStream()) {
            multiply(s, layout, a, b, 1.5f, expected, accumulate);
            multiply(s, layout, Products64.magnitude(a), Products64.magnitude(b), 1.5f, magnitude, accumulate);
            multiply(gpu, layout, Gpu.device(cuda, a), Gpu.device(cuda, b), 1.5f, c, accumulate);
        }
        // With bfloat16 anywhere, each float32 operand is rounded to it first.
        boolean tensorCores = ta == DType.BF16 || tb == DType.BF16 || tc == DType.BF16;
        double rounded = tensorCores ? ((ta == DType.F32 ? 1 : 0) + (tb == DType.F32 ? 1 : 0)) * 0x1.01p-8 : 0;
        Tensor actual = Gpu.host(cuda, c);
        Tensor rightType = Tensor.zeros(tc, m, n).copyFrom(expected);
        Products64.within(rightType, actual, magnitude, (k + 2) * Twins.EPSILON + rounded);
    }

    private static void multiply(Stream s, Products.Layout layout, Tensor a, Tensor b, float alpha, Tensor c,
            boolean accumulate) {
        switch (layout) {
            case NT -> Matmul.nt(s, a, b, alpha, c, accumulate);
            case NN -> Matmul.nn(s, a, b, alpha, c, accumulate);
            case TN -> Matmul.tn(s, a, b, alpha, c, accumulate);
        }
    }

    @Test
    void repeatsBitForBit() {
        try (CudaBackend cuda = Gpu.open(); Stream s = cuda.openStream()) {
            Tensor a = Gpu.device(cuda, Gpu.normal(random, DType.BF16, 70, 3000));
            Tensor b = Gpu.device(cuda, Gpu.normal(random, DType.F32, 90, 3000));
            Tensor first = Gpu.poisoned(cuda, DType.F32, 70, 90);
            Tensor second = Gpu.poisoned(cuda, DType.F32, 70, 90);
            Matmul.nt(s, a, b, 1, first, false);
            Matmul.nt(s, a, b, 1, second, false);
            assertThat(Gpu.host(cuda, second).toFloats()).isEqualTo(Gpu.host(cuda, first).toFloats());
        }
    }

    @Test
    void float64IsRefused() {
        try (CudaBackend cuda = Gpu.open(); Stream s = cuda.openStream()) {
            Tensor t = Gpu.device(cuda, Gpu.normal(random, DType.F64, 20, 20));
            Tensor out = Gpu.poisoned(cuda, DType.F64, 20, 20);
            assertThatThrownBy(() -> Matmul.nn(s, t, t, 1, out, false)).hasMessageContaining("float64")
                    .hasMessageContaining("--backend scalar");
        }
    }

    @Test
    void aLibraryThatIsNotThereIsNamed() {
        assertThatThrownBy(() -> open("/nowhere/libcublas.so").close()).hasMessageContaining("/nowhere/libcublas.so")
                .hasMessageContaining("-Dqlora4j.cublas");
    }
}
