package qlora4j.cuda;

import java.util.List;
import java.util.Locale;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** The variants of a kernel by the types of one or two of its tensors: {@code NAME_f32}, {@code NAME_bf16_f32} ... */
final class Variants {
    private static final int TYPES = DType.values().length;

    private final String operation;
    private final Kernel[] kernels = new Kernel[TYPES * TYPES];

    /** A kernel with a variant for each of {@code types}. */
    static Variants of(CudaModules modules, String module, String function, DType... types) {
        Variants v = new Variants(function);
        for (DType t : types) {
            v.kernels[v.index(t, t)] = modules.kernel(module, function + "_" + suffix(t));
        }
        return v;
    }

    /** A kernel with a variant for each of {@code pairs}. */
    static Variants ofPairs(CudaModules modules, String module, String function, List<DType[]> pairs) {
        Variants v = new Variants(function);
        for (DType[] p : pairs) {
            v.kernels[v.index(p[0], p[1])] = modules.kernel(module,
                    function + "_" + suffix(p[0]) + "_" + suffix(p[1]));
        }
        return v;
    }

    private Variants(String operation) {
        this.operation = operation;
    }

    private static String suffix(DType t) {
        return t.name().toLowerCase(Locale.ROOT);
    }

    private int index(DType a, DType b) {
        return a.ordinal() * TYPES + b.ordinal();
    }

    /** The variant for {@code t}'s type; an error that names the tensor when there is none. */
    Kernel get(Tensor t) {
        return get(t, t);
    }

    /** The variant for the types of {@code a} and {@code b}. */
    Kernel get(Tensor a, Tensor b) {
        Kernel k = kernels[index(a.dtype(), b.dtype())];
        if (k == null) {
            throw new IllegalArgumentException(operation + " on the cuda backend takes float32 and bfloat16, not "
                    + (a == b ? a : a + " with " + b));
        }
        return k;
    }

    /** An error unless {@code a} and {@code b}, which may be null, are of one type. */
    static void same(String operation, Tensor a, Tensor b) {
        if (b != null && a.dtype() != b.dtype()) {
            throw new IllegalArgumentException(operation + " on the cuda backend takes tensors of one type, not " + a
                    + " with " + b);
        }
    }

    /** {@code t}; an error unless it is of {@code type}. */
    static Tensor require(DType type, String what, Tensor t) {
        if (t.dtype() != type) {
            throw new IllegalArgumentException(what + " on the cuda backend is " + type + ", not " + t);
        }
        return t;
    }
}
