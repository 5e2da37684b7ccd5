package qlora4j.cuda;

import qlora4j.cuda.Products.Epilogue;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.tensor.DType;
import qlora4j.tensor.MatmulKernels;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Dense products: {@code matvec.cu} for a few rows, {@link Products} for the rest. */
final class CudaMatmul implements MatmulKernels {
    /** Rows of x that the kernels of {@code matvec.cu} take. */
    static final int FEW_ROWS = 8;
    static final int MATVEC_THREADS = 256;
    /** Blocks of {@code matvec.cu}'s bfloat16 kernels that run on a multiprocessor at once. */
    static final int MATVEC_BLOCKS = 3;
    /** Rows of W that a block of these kernels has at a time, or, in float32, its warps. */
    static final int MATVEC_ROWS = 16;
    static final int WARPS = MATVEC_THREADS / 32;

    private static final int VECTOR_BYTES = 16;

    private final Products products;
    private final int blocks;
    private final Kernel matvecBf16;
    private final Kernel matvecF32;

    CudaMatmul(CudaBackend cuda, Products products) {
        this.products = products;
        blocks = MATVEC_BLOCKS * cuda.context().multiprocessors();
        matvecBf16 = cuda.modules().kernel("matvec", "matvec_bf16");
        matvecF32 = cuda.modules().kernel("matvec", "matvec_f32");
    }

    static boolean aligned(Tensor t) {
        return t.data().address() % VECTOR_BYTES == 0;
    }

    @Override
    public void nt(Stream stream, Tensor x, Tensor w, float alpha, Tensor y, boolean accumulate) {
        CudaStream s = (CudaStream) stream;
        int m = x.rows();
        int in = x.cols();
        int out = w.rows();
        boolean few = m > 0 && m <= FEW_ROWS && out >= MATVEC_ROWS && in > 0;
        if (few && x.dtype() == DType.BF16 && w.dtype() == DType.BF16 && y.dtype() != DType.F16
                && DType.BF16.bytes(in) % VECTOR_BYTES == 0 && aligned(x) && aligned(w)) {
            matvecBf16.launch(s, Math.min(blocks, Math.ceilDiv(out, MATVEC_ROWS)), MATVEC_THREADS,
                    Kernel.args().ptr(x).i32(m).ptr(w).i32(out).i32(in).f32(alpha).flag(accumulate)
                            .flag(y.dtype() == DType.F32).ptr(y));
        } else if (few && x.dtype() == DType.F32 && w.dtype() == DType.F32 && y.dtype() == DType.F32) {
            matvecF32.launch(s, Math.ceilDiv(out, WARPS), MATVEC_THREADS,
                    Kernel.args().ptr(x).i32(m).ptr(w).i32(out).i32(in).f32(alpha).flag(accumulate).ptr(y));
        } else {
            multiply(s, Layout.NT, x, w, alpha, y, accumulate);
        }
    }

    @Override
    public void nn(Stream s, Tensor dy, Tensor w, float alpha, Tensor dx, boolean accumulate) {
        multiply((CudaStream) s, Layout.NN, dy, w, alpha, dx, accumulate);
    }

    @Override
    public void tn(Stream s, Tensor dy, Tensor x, float alpha, Tensor dw, boolean accumulate) {
        multiply((CudaStream) s, Layout.TN, dy, x, alpha, dw, accumulate);
    }

    private void multiply(CudaStream s, Layout layout, Tensor a, Tensor b, float alpha, Tensor c, boolean accumulate) {
        Products.check(a);
        Products.check(b);
        Products.check(c);
        products.multiply(s, layout, Matrix.of(a), Matrix.of(b), Matrix.of(c), Epilogue.plain(alpha, accumulate));
    }
}
