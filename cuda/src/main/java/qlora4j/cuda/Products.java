package qlora4j.cuda;

import java.util.List;
import java.util.Optional;
import qlora4j.cuda.SummedProducts.Output;
import qlora4j.cuda.SummedProducts.Term;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Dense products of any types that occur: {@link SummedProducts} where they are large and of bfloat16, cuBLAS where it was
 * found and takes them, else {@code gemm.cu}. When one of the
 * matrices is bfloat16, float32 operands are rounded to bfloat16 and sums are float32; all-float32 products are true
 * float32. Scratch memory is the first {@link #SCRATCH_BYTES} of the backend's workspace: parts of sums, room for a
 * caller, then operands rounded to bfloat16. Who multiplies only what needs no rounding, such as a dequantized matrix
 * with activations of its type, may keep operands from {@link #OPERANDS} on.
 */
final class Products {
    /** How the operands lie: {@code A [m, k], B [n, k]}; {@code A [m, k], B [k, n]}; {@code A [k, m], B [k, n]}. */
    enum Layout {
        NT, NN, TN
    }

    /** A matrix in device memory, rows {@code stride} elements apart. */
    record Matrix(long address, DType type, int rows, int cols, int stride) {
        static Matrix of(Tensor t) {
            return new Matrix(t.data().address(), t.dtype(), t.rows(), t.cols(), t.cols());
        }

        /** The first {@code n} columns. */
        Matrix columns(int n) {
            return columns(0, n);
        }

        /** {@code n} columns from one on. */
        Matrix columns(int from, int n) {
            return new Matrix(address + type.bytes(from), type, rows, n, stride);
        }

        /** {@code n} rows from one on. */
        Matrix rows(int from, int n) {
            return new Matrix(address + type.bytes((long) from * stride), type, n, cols, stride);
        }

        long elements() {
            return (long) rows * cols;
        }
    }

    /**
     * What becomes of the product: {@code C = alpha·product (+ C) (+ residual) (+ bias)}.
     *
     * @param residual like C, or null
     * @param bias [n] of C's type, or null
     * @param slots I32, or null: only rows with {@code slots[row] == slot} take part, rows of C or, in {@code TN}, of
     *         both operands
     */
    record Epilogue(float alpha, boolean accumulate, Tensor residual, Tensor bias, Tensor slots, int slot) {
        static Epilogue plain(float alpha, boolean accumulate) {
            return new Epilogue(alpha, accumulate, null, null, null, 0);
        }

        /** Whether it is what {@link SummedProducts} adds. */
        private boolean isSum() {
            return alpha == 1 && slots == null && !(accumulate && residual != null);
        }

        private boolean isPlain() {
            return residual == null && bias == null && slots == null;
        }
    }

    private static final long PARTS_BYTES = 16L << 20;
    /** Where a caller of several products may keep something between them. */
    static final long CALLER = PARTS_BYTES;
    static final long CALLER_BYTES = 16L << 20;
    /** Where operands are rounded to. */
    static final long OPERANDS = CALLER + CALLER_BYTES;
    private static final long OPERANDS_BYTES = 64L << 20;
    static final long SCRATCH_BYTES = OPERANDS + OPERANDS_BYTES;
    private static final int ALIGNMENT = 256;

    private static final int THREADS = 256;
    private static final int F32_TILE = 64;
    private static final int F32_DEPTH = 16;
    private static final int MOST_PARTS = 16;
    /** Multiplications from which it pays to round float32 operands beforehand. */
    private static final long WORTH_ROUNDING = 1L << 26;
    /**
     * Multiplications from which cuBLAS may add to bfloat16 results. In small products it rounds the product to bfloat16
     * before it adds, once more than the contract allows (seen with 13.1).
     */
    private static final long WORTH_ADDING = 1L << 31;

    /** A tile size of {@code gemm.cu}: m and n, k of a step, shared memory. */
    private enum Size {
        WIDE(128, 32, 4 * 128 * (128 + 4)), NARROW(64, 64, 2 * 2 * 2 * 64 * (64 + 8));

        private final int tile;
        private final int depth;
        private final int sharedBytes;

        Size(int tile, int depth, int sharedBytes) {
            this.tile = tile;
            this.depth = depth;
            this.sharedBytes = sharedBytes;
        }

        private long tiles(Matrix c) {
            return (long) Math.ceilDiv(c.rows(), tile) * Math.ceilDiv(c.cols(), tile);
        }
    }

    private final CudaBackend cuda;
    private final Optional<Cublas> cublas;
    private final SummedProducts summed;
    private final int multiprocessors;
    private final Kernel[][] kernels = new Kernel[Layout.values().length][Size.values().length];
    private final Kernel f32;
    private final Kernel sum;
    private final Kernel round;

    Products(CudaBackend cuda) {
        this.cuda = cuda;
        this.cublas = Cublas.open(cuda);
        if (cublas.isEmpty()) {
            cuda.note("no cuBLAS: slower dense products of its own");
        }
        summed = new SummedProducts(cuda);
        multiprocessors = cuda.context().multiprocessors();
        CudaModules m = cuda.modules();
        for (Layout l : Layout.values()) {
            for (Size s : Size.values()) {
                kernels[l.ordinal()][s.ordinal()] = m.kernel("gemm", "gemm_" + lower(l) + "_" + lower(s));
            }
        }
        f32 = m.kernel("gemm", "gemm_f32");
        sum = m.kernel("gemm", "gemm_sum");
        round = m.kernel("convert", "convert_f32_bf16");
    }

    /** Sums of products that are one operation. */
    SummedProducts summed() {
        return summed;
    }

    private static String lower(Enum<?> e) {
        return e.name().toLowerCase(java.util.Locale.ROOT);
    }

    /** An error unless the GPU computes with the type of {@code t}. */
    static void check(Tensor t) {
        if (t.dtype() != DType.F32 && t.dtype() != DType.BF16 && t.dtype() != DType.F16) {
            throw new IllegalArgumentException(
                    "products on the cuda backend take float32, bfloat16 and float16, not " + t
                            + "; float64 runs on --backend scalar");
        }
    }

    /** The number by which {@code gemm.cu} knows a type. */
    private static int code(DType type) {
        return switch (type) {
            case F32 -> 0;
            case BF16 -> 1;
            case F16 -> 2;
            default -> throw new IllegalArgumentException("products on the cuda backend do not take " + type);
        };
    }

    /** Enqueues a product; shapes are trusted. */
    void multiply(CudaStream s, Layout layout, Matrix a, Matrix b, Matrix c, Epilogue e) {
        int k = layout == Layout.TN ? a.rows() : a.cols();
        if (c.elements() == 0) {
            return;
        }
        if (e.isSum()) {
            List<Output> sum = List.of(new Output(c, e.accumulate() ? c
                    : e.residual() == null ? null
                            : Matrix.of(e.residual()),
                    e.bias(), List.of(new Term(a, b))));
            if (summed.takes(layout, sum)) {
                summed.multiply(s, layout, sum);
                return;
            }
        }
        long work = c.elements() * k;
        boolean half = isAny(DType.F16, a, b, c);
        boolean tensorCores = isAny(DType.BF16, a, b, c) && !half;
        Matrix x = a;
        Matrix y = b;
        if (tensorCores && work >= WORTH_ROUNDING
                && roundedBytes(a) + roundedBytes(b) <= OPERANDS_BYTES) {
            x = rounded(s, a, 0);
            y = rounded(s, b, roundedBytes(x == a ? null : a));
        }
        boolean added = e.accumulate() && c.type() == DType.BF16 && work < WORTH_ADDING;
        if (cublas.isPresent() && e.isPlain() && !added && k > 0 && Cublas.takes(x.type(), y.type(), c.type())) {
            cublas.get().multiply(layout, x, y, c, k, e.alpha(), e.accumulate());
        } else if (tensorCores) {
            Size size = Size.WIDE.tiles(c) >= multiprocessors ? Size.WIDE : Size.NARROW;
            launch(s, kernels[layout.ordinal()][size.ordinal()], layout, x, y, c, k, e, size.tile, size.depth,
                    size.sharedBytes, false);
        } else {
            launch(s, f32, layout, a, b, c, k, e, F32_TILE, F32_DEPTH, 0, true);
        }
    }

    private static boolean isAny(DType type, Matrix a, Matrix b, Matrix c) {
        return a.type() == type || b.type() == type || c.type() == type;
    }

    /** Bytes that a float32 matrix takes when it is rounded to bfloat16, to the next multiple of the alignment. */
    private static long roundedBytes(Matrix m) {
        return m != null && m.type() == DType.F32
                ? Math.ceilDiv(DType.BF16.bytes(m.elements()), ALIGNMENT) * ALIGNMENT
                : 0;
    }

    /** A float32 matrix rounded to bfloat16 in the scratch memory; others, and those with gaps, as they are. */
    private Matrix rounded(CudaStream s, Matrix m, long offset) {
        if (m.type() != DType.F32 || m.stride() != m.cols()) {
            return m;
        }
        long at = cuda.workspace(SCRATCH_BYTES) + OPERANDS + offset;
        round.launch(s, Math.ceilDiv(m.elements(), 4L * THREADS), THREADS,
                Kernel.args().ptr(m.address()).ptr(at).i64(m.elements()));
        return new Matrix(at, DType.BF16, m.rows(), m.cols(), m.cols());
    }

    private void launch(CudaStream s, Kernel kernel, Layout layout, Matrix a, Matrix b, Matrix c, int k, Epilogue e,
            int tile, int depth, int sharedBytes, boolean flags) {
        long tiles = (long) Math.ceilDiv(c.rows(), tile) * Math.ceilDiv(c.cols(), tile);
        long parts = Math.min(2L * multiprocessors / tiles, Math.ceilDiv(k, depth) / 2);
        parts = Math.min(parts, PARTS_BYTES / (Float.BYTES * c.elements()));
        int z = Math.clamp(parts, 1, MOST_PARTS);
        long partial = z > 1 ? cuda.workspace(PARTS_BYTES) : 0;
        Kernel.Args args = Kernel.args().ptr(a.address()).i32(code(a.type())).i32(a.stride()).ptr(b.address())
                .i32(code(b.type())).i32(b.stride());
        result(args, c).i32(k);
        epilogue(args, e).ptr(partial);
        if (flags) {
            args.flag(layout != Layout.TN).flag(layout == Layout.NT);
        }
        kernel.launch(s, Math.ceilDiv(c.cols(), tile), Math.ceilDiv(c.rows(), tile), z, THREADS, sharedBytes, args);
        if (z > 1) {
            boolean rows = layout != Layout.TN;
            Kernel.Args more = epilogue(result(Kernel.args(), c), rows ? e : withoutSlots(e)).ptr(partial).i32(z);
            sum.launch(s, Math.ceilDiv(c.elements(), THREADS), THREADS, more);
        }
    }

    private static Epilogue withoutSlots(Epilogue e) {
        return new Epilogue(e.alpha(), e.accumulate(), e.residual(), e.bias(), null, 0);
    }

    private static Kernel.Args result(Kernel.Args args, Matrix c) {
        return args.ptr(c.address()).i32(code(c.type())).i32(c.stride()).i32(c.rows()).i32(c.cols());
    }

    private static Kernel.Args epilogue(Kernel.Args args, Epilogue e) {
        return args.f32(e.alpha()).flag(e.accumulate()).ptr(e.residual()).ptr(e.bias()).ptr(e.slots()).i32(e.slot());
    }
}
