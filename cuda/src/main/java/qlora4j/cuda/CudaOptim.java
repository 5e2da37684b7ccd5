package qlora4j.cuda;

import qlora4j.optim.AdamHyper;
import qlora4j.optim.OptimKernels;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The optimizer's kernels: {@code adamw.cu} and {@code clip.cu}, the same bits as on the other backends. */
final class CudaOptim implements OptimKernels {
    private static final int THREADS = 256;
    /** Elements that a thread of AdamW updates at a time. */
    private static final int PER_THREAD = 4;
    /** Blocks a multiprocessor of kernels that walk over their elements: two waves of eight. */
    private static final int BLOCKS = 16;

    private final long mostBlocks;
    private final CudaBackend backend;
    private final Variants torch;
    private final Variants bitsandbytes;
    private final Variants chunkSums;
    private final Kernel total;
    private final Kernel clipScale;
    private final Variants nonFinite;

    CudaOptim(CudaBackend backend) {
        this.backend = backend;
        this.mostBlocks = (long) BLOCKS * backend.context().multiprocessors();
        CudaModules m = backend.modules();
        torch = Variants.of(m, "adamw", "adamw_torch", DType.F32, DType.F64);
        bitsandbytes = Variants.of(m, "adamw", "adamw_bitsandbytes", DType.F32, DType.F64);
        chunkSums = Variants.of(m, "clip", "sum_of_squares_chunks", DType.F32, DType.F64);
        total = m.kernel("clip", "sum_of_squares_total");
        clipScale = m.kernel("clip", "clip_scale");
        nonFinite = Variants.of(m, "clip", "non_finite", DType.F32, DType.F64);
    }

    @Override
    public void adamW(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor expAvg, Tensor expAvgSq,
            Tensor scalars) {
        Kernel k = (hyper.formula() == AdamHyper.Formula.TORCH ? torch : bitsandbytes).get(params);
        long n = params.size();
        k.launch((CudaStream) stream, Math.min(mostBlocks, Math.ceilDiv(n, THREADS * PER_THREAD)), THREADS,
                Kernel.args().ptr(params).ptr(grads).ptr(expAvg).ptr(expAvgSq).ptr(scalars)
                        .f64(hyper.learningRateScale()).f64(hyper.beta1()).f64(hyper.beta2()).f64(hyper.epsilon())
                        .f64(hyper.weightDecay()).i64(n));
    }

    @Override
    public void sumOfSquares(Stream stream, Tensor x, Tensor chunks, Tensor scalars) {
        CudaStream s = (CudaStream) stream;
        long n = chunks.size();
        chunkSums.get(x).launch(s, Math.ceilDiv(n * PARTIALS, THREADS), THREADS,
                Kernel.args().ptr(x).ptr(chunks).i64(x.size()));
        total.launch(s, 1, THREADS, Kernel.args().ptr(chunks).i64(n).ptr(scalars));
    }

    @Override
    public void clipScale(Stream stream, double maxNorm, Tensor scalars) {
        clipScale.launch((CudaStream) stream, 1, 1, Kernel.args().f64(maxNorm).ptr(scalars));
    }

    @Override
    public void nonFinite(Stream stream, Tensor x, Tensor count) {
        backend.zero(count.data().address(), count.bytes());
        long n = x.size();
        nonFinite.get(x).launch((CudaStream) stream, Math.min(mostBlocks, Math.ceilDiv(n, THREADS * PER_THREAD)),
                THREADS, Kernel.args().ptr(x).ptr(count).i64(n));
    }
}
