package qlora4j.cuda;

import qlora4j.lora.DoraKernels;
import qlora4j.lora.Dropout;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What DoRA needs beside the products of a linear layer: {@code dora.cu}. */
final class CudaDora implements DoraKernels {
    private static final int THREADS = 256;
    /** Output features of a block of the norms, and columns of a block of the sums. */
    private static final int NORMS = 8;
    private static final int COLUMNS = 32;

    private final CudaLora lora;
    private final Variants rowSquares;
    private final Variants scaleColumns;
    private final Variants sumColumns;
    private final Kernel gain;

    CudaDora(CudaBackend cuda, CudaLora lora) {
        this.lora = lora;
        CudaModules m = cuda.modules();
        rowSquares = Variants.of(m, "dora", "row_squares", DType.F32, DType.BF16);
        scaleColumns = Variants.of(m, "dora", "scale_columns", DType.F32, DType.BF16);
        sumColumns = Variants.of(m, "dora", "sum_columns", DType.F32, DType.BF16);
        gain = m.kernel("dora", "gain_f32");
    }

    private static void wide(Tensor... tensors) {
        for (Tensor t : tensors) {
            if (t != null && t.dtype() != DType.F32) {
                throw new IllegalArgumentException("DoRA's norms and gains are float32 on the cuda backend, not " + t);
            }
        }
    }

    @Override
    public void rowSquares(Stream s, Tensor w, Tensor squares) {
        wide(squares);
        rowSquares.get(w).launch((CudaStream) s, w.rows(), THREADS,
                Kernel.args().ptr(w).i32(w.cols()).ptr(squares));
    }

    @Override
    public void gain(Stream s, Tensor squares, Tensor wa, Tensor aa, Tensor b, double scale, Tensor magnitude,
            Tensor norm, Tensor gains) {
        wide(squares, wa, aa, b, magnitude, norm, gains);
        gain.launch((CudaStream) s, Math.ceilDiv(b.rows(), NORMS), THREADS, Kernel.args().ptr(squares).ptr(wa).ptr(aa)
                .ptr(b).f64(scale).ptr(magnitude).ptr(norm).ptr(gains).i32(b.rows()).i32(b.cols()));
    }

    @Override
    public void scaleColumns(Stream s, Tensor x, Tensor gains, double shift, Tensor residual, Tensor bias,
            Tensor out) {
        wide(gains);
        Variants.same("scaleColumns", x, out);
        Variants.same("scaleColumns", x, residual);
        Variants.same("scaleColumns", x, bias);
        scaleColumns.get(x).launch((CudaStream) s, Math.ceilDiv(x.size(), THREADS), THREADS, Kernel.args().ptr(x)
                .ptr(gains).f32((float) shift).ptr(residual).ptr(bias).i64(x.size()).i32(x.cols()).ptr(out));
    }

    @Override
    public void sumColumns(Stream s, Tensor dy, Tensor z, Tensor norm, Tensor sum) {
        wide(norm, sum);
        Variants.same("sumColumns", dy, z);
        sumColumns.get(dy).launch((CudaStream) s, Math.ceilDiv(dy.cols(), COLUMNS), THREADS,
                Kernel.args().ptr(dy).ptr(z).ptr(norm).i64(dy.rows()).i32(dy.cols()).ptr(sum));
    }

    @Override
    public void dropout(Stream s, Dropout d, int module, Tensor x, Tensor out, boolean add) {
        lora.dropout((CudaStream) s, d, module, x, out, add);
    }
}
