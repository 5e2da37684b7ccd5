package qlora4j.optim;

import java.util.Objects;
import java.util.Optional;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The checked entry to {@link OptimKernels}: shapes, types and aliasing are looked at here and nowhere else. */
public final class Optim {
    private Optim() {
    }

    /** {@link OptimKernels#adamW} on ranges of equal length. */
    public static void adamW(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor expAvg,
            Tensor expAvgSq, Tensor scalars) {
        Objects.requireNonNull(hyper);
        checkElements("params", params);
        Tensor[] all = {params, grads, expAvg, expAvgSq};
        String[] names = {"params", "grads", "expAvg", "expAvgSq"};
        for (int i = 1; i < all.length; i++) {
            if (all[i].dtype() != params.dtype() || all[i].size() != params.size()) {
                throw new IllegalArgumentException(names[i] + " is " + all[i] + ", must match params " + params);
            }
            for (int k = 0; k < i && !stream.isPlan(); k++) {
                checkApart(names[k], all[k], names[i], all[i]);
            }
        }
        checkScalars(scalars);
        stream.kernels(OptimKernels.class).adamW(stream, hyper, params, grads, expAvg, expAvgSq, scalars);
    }

    /** {@link EightBitKernels#adamW8} on ranges that begin at a block's first element. */
    public static void adamW8(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor codes1,
            Tensor codes2, Tensor absmax1, Tensor absmax2, Tensor scalars) {
        long n = params.size();
        long blocks = Math.ceilDiv(n, (long) EightBitKernels.BLOCK);
        checkState("params", params, DType.F32, n);
        checkState("grads", grads, DType.F32, n);
        checkState("codes1", codes1, DType.U8, n);
        checkState("codes2", codes2, DType.U8, n);
        checkState("absmax1", absmax1, DType.F32, blocks);
        checkState("absmax2", absmax2, DType.F32, blocks);
        Tensor[] all = {params, grads, codes1, codes2, absmax1, absmax2};
        for (int i = 1; i < all.length && !stream.isPlan(); i++) {
            for (int k = 0; k < i; k++) {
                checkApart("operand " + k, all[k], "operand " + i, all[i]);
            }
        }
        checkScalars(scalars);
        stream.kernels(EightBitKernels.class).adamW8(stream, hyper, params, grads, codes1, codes2, absmax1, absmax2,
                scalars);
    }

    private static void checkState(String name, Tensor t, DType dtype, long size) {
        if (t.dtype() != dtype || t.size() != size) {
            throw new IllegalArgumentException(name + " is " + t + ", must be " + dtype + " with " + size
                    + " elements");
        }
    }

    /**
     * Enqueues the norm of {@code grads} and the clipping factor that keeps it at most {@code maxNorm}; see
     * {@link OptimKernels#clipScale}. The gradients themselves stay as they are.
     *
     * @param grads {@code [n]} float32 or float64
     * @param maxNorm more than 0; +infinity for no clipping
     */
    public static void clip(Stream stream, Tensor grads, double maxNorm, Tensor scalars) {
        if (!(maxNorm > 0)) {
            throw new IllegalArgumentException("max_grad_norm is " + maxNorm
                    + ", must be more than 0 (infinity: no clipping)");
        }
        checkElements("grads", grads);
        checkScalars(scalars);
        OptimKernels kernels = stream.kernels(OptimKernels.class);
        Tensor chunkSums = stream.take(DType.F64, Math.ceilDiv(grads.size(), OptimKernels.CHUNK));
        kernels.sumOfSquares(stream, grads, chunkSums, scalars);
        stream.release(chunkSums);
        kernels.clipScale(stream, maxNorm, scalars);
    }

    /** Counts the NaN and infinite elements of {@code x}, float32 or float64; waits for the stream. */
    public static long nonFinite(Stream stream, Tensor x) {
        checkElements("x", x);
        try (var memory = stream.backend().allocate(DType.I64.bytes(), MemoryUse.WORKSPACE)) {
            Tensor count = memory.tensor(0, DType.I64, 1);
            stream.kernels(OptimKernels.class).nonFinite(stream, x, count);
            stream.synchronize();
            Tensor host = Tensor.zeros(DType.I64, 1);
            stream.backend().download(count, host);
            return (long) host.get(0);
        }
    }

    /**
     * Names the first parameter whose value, else whose gradient, has NaN or infinite elements: for the message when a
     * gradient norm is not finite. Values come first, because one that is not a number spoils the gradients of all layers. Waits for the stream.
     *
     * @return such as {@code "gradient of NAME: 3 of 128 elements are NaN or infinite"}, or empty when all are finite
     */
    public static Optional<String> firstNonFinite(Stream stream, ParameterStore store) {
        for (ParameterStore.Parameter p : store.all()) {
            long bad = nonFinite(stream, p.value());
            if (bad > 0) {
                return Optional.of(complaint("value of ", p, bad));
            }
        }
        for (ParameterStore.Parameter p : store.all()) {
            long bad = nonFinite(stream, p.grad());
            if (bad > 0) {
                return Optional.of(complaint("gradient of ", p, bad));
            }
        }
        return Optional.empty();
    }

    private static String complaint(String what, ParameterStore.Parameter p, long bad) {
        return what + p.name() + ": " + bad + " of " + p.value().size() + " elements are NaN or infinite";
    }

    private static void checkElements(String name, Tensor t) {
        if (t.dtype() != DType.F32 && t.dtype() != DType.F64) {
            throw new IllegalArgumentException(name + " is " + t + ", must be F32 or F64");
        }
    }

    private static void checkScalars(Tensor scalars) {
        if (scalars.dtype() != DType.F64 || scalars.size() != OptimScalars.SIZE) {
            throw new IllegalArgumentException("scalars is " + scalars + ", must be F64[" + OptimScalars.SIZE + "]");
        }
    }

    private static void checkApart(String nameA, Tensor a, String nameB, Tensor b) {
        long startA = a.data().address();
        long startB = b.data().address();
        if (startA < startB + b.bytes() && startB < startA + a.bytes()) {
            throw new IllegalArgumentException(nameA + " and " + nameB + " share memory");
        }
    }
}
