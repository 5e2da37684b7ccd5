package qlora4j.cuda;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.invoke.MethodHandle;
import java.util.List;
import java.util.Optional;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/**
 * NVIDIA's library of dense products, version 12 or 13, where it is installed. The system property
 * {@code qlora4j.cublas} names its file, or is {@code none}; otherwise the dynamic linker looks for it. float32 products
 * are true float32 (never tf32); bfloat16 products are summed in float32. Results repeat: one handle, one queue, a
 * workspace of its own.
 */
final class Cublas implements AutoCloseable {
    /** The system property with the library's file, or {@code none}. */
    static final String PROPERTY = "qlora4j.cublas";

    private static final List<String> NAMES = List.of("libcublas.so.13", "libcublas.so.12");
    private static final int OLDEST_MAJOR = 12;
    /** What NVIDIA recommends for compute capability 9.0. */
    static final long WORKSPACE_BYTES = 32 << 20;

    private static final int NOT_TRANSPOSED = 0;
    private static final int TRANSPOSED = 1;
    private static final int REAL_32F = 0;
    private static final int REAL_16BF = 14;
    private static final int COMPUTE_32F = 68;
    private static final int COMPUTE_32F_PEDANTIC = 69;
    private static final int ALGORITHM_DEFAULT = -1;
    /** CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION. */
    private static final int SUMS_IN_FULL = 16;

    private final CudaBackend cuda;
    private final Arena arena = Arena.ofShared();
    private final MethodHandle gemmEx;
    private final MethodHandle destroy;
    private final MemorySegment handle;
    private final MemorySegment scalars = arena.allocate(JAVA_FLOAT, 2);
    private final String version;

    private Cublas(CudaBackend cuda, SymbolLookup library) {
        this.cuda = cuda;
        cuda.context().enter();
        MemorySegment out = arena.allocate(JAVA_LONG);
        check((int) call(function(library, "cublasCreate_v2", ADDRESS), out), "cublasCreate");
        handle = MemorySegment.ofAddress(out.get(JAVA_LONG, 0));
        destroy = function(library, "cublasDestroy_v2", ADDRESS);
        gemmEx = function(library, "cublasGemmEx", ADDRESS, JAVA_INT, JAVA_INT, JAVA_INT, JAVA_INT, JAVA_INT, ADDRESS,
                ADDRESS, JAVA_INT, JAVA_INT, ADDRESS, JAVA_INT, JAVA_INT, ADDRESS, ADDRESS, JAVA_INT, JAVA_INT,
                JAVA_INT, JAVA_INT);
        check((int) call(function(library, "cublasGetVersion_v2", ADDRESS, ADDRESS), handle, out), "cublasGetVersion");
        int v = out.get(JAVA_INT, 0);
        version = v / 10_000 + "." + v / 100 % 100 + "." + v % 100;
        if (v / 10_000 < OLDEST_MAJOR) {
            throw new IllegalArgumentException(
                    "it is version " + version + ", " + OLDEST_MAJOR + " or newer is needed");
        }
        check((int) call(function(library, "cublasSetStream_v2", ADDRESS, ADDRESS), handle,
                MemorySegment.ofAddress(cuda.queueAddress())), "cublasSetStream");
        Tensor workspace = cuda.allocate(MemoryUse.WORKSPACE, DType.U8, WORKSPACE_BYTES);
        check((int) call(function(library, "cublasSetWorkspace_v2", ADDRESS, ADDRESS, JAVA_LONG), handle,
                workspace.data(), WORKSPACE_BYTES), "cublasSetWorkspace");
        check((int) call(function(library, "cublasSetMathMode", ADDRESS, JAVA_INT), handle, SUMS_IN_FULL),
                "cublasSetMathMode");
    }

    /**
     * Opens the library for {@code cuda}, which closes it, and says so in its description.
     *
     * @return empty where it is not installed
     * @throws IllegalArgumentException where {@link #PROPERTY} names a file that cannot be used
     */
    static Optional<Cublas> open(CudaBackend cuda) {
        String asked = System.getProperty(PROPERTY, "");
        if (asked.equals("none")) {
            return Optional.empty();
        }
        for (String name : asked.isEmpty() ? NAMES : List.of(asked)) {
            try {
                Cublas c = new Cublas(cuda, SymbolLookup.libraryLookup(name, Arena.global()));
                cuda.closeWithThis(c);
                cuda.note("cuBLAS " + c.version);
                return Optional.of(c);
            } catch (IllegalArgumentException | IllegalStateException e) {
                if (e instanceof IllegalStateException) {
                    cuda.note(name + " was found and cannot be used (" + e.getMessage() + ")");
                }
                if (!asked.isEmpty()) {
                    throw new IllegalArgumentException("-D" + PROPERTY + "=" + asked + ": " + e.getMessage()
                            + "; name the file of a cuBLAS 12 or 13, or none", e);
                }
            }
        }
        return Optional.empty();
    }

    private static MethodHandle function(SymbolLookup library, String name,
            java.lang.foreign.MemoryLayout... parameters) {
        MemorySegment f = library.find(name)
                .orElseThrow(() -> new IllegalArgumentException("the library has no function " + name));
        return Linker.nativeLinker().downcallHandle(f, FunctionDescriptor.of(JAVA_INT, parameters));
    }

    private static Object call(MethodHandle function, Object... arguments) {
        try {
            return function.invokeWithArguments(arguments);
        } catch (Throwable t) {
            throw new IllegalStateException("a call of cuBLAS failed", t);
        }
    }

    private static void check(int status, String what) {
        if (status != 0) {
            throw new IllegalStateException(what + " failed with status " + status);
        }
    }

    /** Whether the library takes a product of these types; both operands are of one type. */
    static boolean takes(DType a, DType b, DType c) {
        return a == b && (a == DType.BF16 && (c == DType.BF16 || c == DType.F32) || a == DType.F32 && c == DType.F32);
    }

    private static int code(DType type) {
        return type == DType.BF16 ? REAL_16BF : REAL_32F;
    }

    /**
     * Enqueues {@code C [m, n] = alpha·op(A)·op(B)}, or adds to C; none of m, n, k is 0. The library's matrices are by
     * columns, so it is asked for {@code Cᵀ = op(B)ᵀ·op(A)ᵀ}.
     */
    synchronized void multiply(Products.Layout layout, Products.Matrix a, Products.Matrix b, Products.Matrix c, int k,
            float alpha, boolean accumulate) {
        cuda.context().enter();
        CudaProfile profile = cuda.profile();
        if (profile != null) {
            profile.begin(
                    "cublas " + layout + " " + c.rows() + " x " + c.cols() + " x " + k + (accumulate ? " added" : ""));
        }
        scalars.setAtIndex(JAVA_FLOAT, 0, alpha);
        scalars.setAtIndex(JAVA_FLOAT, 1, accumulate ? 1 : 0);
        int status;
        try {
            status = (int) gemmEx.invokeExact(handle, layout == Products.Layout.NT ? TRANSPOSED : NOT_TRANSPOSED,
                    layout == Products.Layout.TN ? TRANSPOSED : NOT_TRANSPOSED, c.cols(), c.rows(), k, scalars,
                    MemorySegment.ofAddress(b.address()), code(b.type()), b.stride(),
                    MemorySegment.ofAddress(a.address()), code(a.type()), a.stride(),
                    scalars.asSlice(Float.BYTES), MemorySegment.ofAddress(c.address()), code(c.type()), c.stride(),
                    a.type() == DType.F32 ? COMPUTE_32F_PEDANTIC : COMPUTE_32F, ALGORITHM_DEFAULT);
        } catch (Throwable t) {
            throw new IllegalStateException("a call of cuBLAS failed", t);
        }
        if (profile != null) {
            profile.end();
        }
        if (status != 0) {
            throw new IllegalStateException("cublasGemmEx " + layout + " of " + a + " and " + b + " into " + c
                    + " failed with status " + status);
        }
    }

    @Override
    public void close() {
        cuda.context().enter();
        check((int) call(destroy, handle), "cublasDestroy");
        arena.close();
    }
}
