package qlora4j.cuda;

import java.util.EnumMap;
import java.util.Map;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Converts element types on the device: {@code convert.cu}. */
final class Conversion {
    private static final int THREADS = 256;
    private static final int PER_THREAD = 4;
    /** Elements that are uploaded in their own type at once before they are converted. */
    private static final int PIECE = 1 << 22;

    private final CudaBackend backend;
    private final CudaStream stream;
    private final Map<DType, Map<DType, Kernel>> kernels = new EnumMap<>(DType.class);

    Conversion(CudaBackend backend) {
        this.backend = backend;
        this.stream = new CudaStream(backend);
        DType[] types = {DType.F64, DType.F32, DType.BF16, DType.F16};
        for (DType from : types) {
            Map<DType, Kernel> row = new EnumMap<>(DType.class);
            for (DType to : types) {
                if (from != to) {
                    row.put(to, backend.modules().kernel("convert", "convert_" + name(from) + "_" + name(to)));
                }
            }
            kernels.put(from, row);
        }
    }

    private static String name(DType type) {
        return type.name().toLowerCase(java.util.Locale.ROOT);
    }

    /** Uploads {@code host} piece by piece and converts it into {@code target}. */
    void upload(Tensor host, Tensor target, Staging staging) {
        Kernel k = kernel(host.dtype(), target.dtype());
        int unit = host.dtype().bytes();
        for (long at = 0; at < host.size(); at += PIECE) {
            long n = Math.min(PIECE, host.size() - at);
            long scratch = backend.workspace((long) PIECE * unit);
            staging.upload(host.data().asSlice(at * unit, n * unit), scratch);
            launch(k, scratch, target.data().address() + at * target.dtype().bytes(), n);
        }
    }

    private Kernel kernel(DType from, DType to) {
        Kernel k = kernels.getOrDefault(from, Map.of()).get(to);
        if (k == null) {
            throw new IllegalArgumentException("the GPU cannot convert " + from + " to " + to);
        }
        return k;
    }

    private void launch(Kernel k, long from, long to, long n) {
        k.launch(stream, Math.ceilDiv(n, THREADS * PER_THREAD), THREADS, Kernel.args().ptr(from).ptr(to).i64(n));
    }
}
