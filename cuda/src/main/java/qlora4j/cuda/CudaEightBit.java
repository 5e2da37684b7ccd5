package qlora4j.cuda;

import qlora4j.blockwise.DynamicMap;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.EightBitKernels;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** AdamW with its moments in 8 bits: {@code adamw8.cu}. */
final class CudaEightBit implements EightBitKernels {
    private static final int CODES = 256;

    private final CudaBackend backend;
    private final Kernel adamw8;
    private Tensor maps;

    CudaEightBit(CudaBackend cuda) {
        backend = cuda;
        adamw8 = cuda.modules().kernel("adamw8", "adamw8_f32");
    }

    /** Values and midpoints of the signed, then of the unsigned map, on the device; made when first asked for. */
    private synchronized Tensor maps() {
        if (maps == null) {
            float[] all = new float[4 * CODES];
            int at = 0;
            for (DynamicMap map : new DynamicMap[]{DynamicMap.SIGNED, DynamicMap.UNSIGNED}) {
                System.arraycopy(map.table(), 0, all, at, CODES);
                System.arraycopy(map.thresholds(), 0, all, at + CODES, CODES - 1);
                at += 2 * CODES;
            }
            maps = backend.allocate(MemoryUse.CONSTANTS, DType.F32, all.length);
            backend.upload(Tensor.of(all, all.length), maps);
        }
        return maps;
    }

    @Override
    public void adamW8(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor codes1, Tensor codes2,
            Tensor absmax1, Tensor absmax2, Tensor scalars) {
        if (params.dtype() != DType.F32 || grads.dtype() != DType.F32) {
            throw new IllegalArgumentException("8-bit AdamW on the cuda backend takes float32, not " + params);
        }
        long n = params.size();
        adamw8.launch((CudaStream) stream, Math.ceilDiv(n, BLOCK), BLOCK,
                Kernel.args().ptr(params).ptr(grads).ptr(codes1).ptr(codes2).ptr(absmax1).ptr(absmax2).ptr(scalars)
                        .f64(hyper.learningRateScale()).f64(hyper.beta1()).f64(hyper.beta2()).f64(hyper.epsilon())
                        .f64(hyper.weightDecay()).ptr(maps()).i64(n));
    }
}
