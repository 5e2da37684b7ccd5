package qlora4j.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/**
 * Products of up to {@link CudaMatmul#FEW_ROWS} bfloat16 rows with up to {@link #MOST} 4-bit matrices in one launch of
 * {@code nf4_matvec_two.cu} for one or two rows, {@code nf4_matvec_wide.cu} for more or, where their layout is not as
 * nearly always, of {@code nf4_matvec.cu}. Each matrix's residual, bias and adapter are added before results are rounded.
 */
final class CudaMatvec {
    /** Matrices of a launch: {@code MOST_MATRICES} of matrices.cuh. */
    static final int MOST = 3;

    private static final int WARPS = 16;
    private static final int THREADS = WARPS * 32;
    private static final int TILE_ROWS = 16;
    private static final int TABLE_BYTES = 256 * 32 * 8;
    /** What the kernel holds beside (13 KiB), and what the driver keeps. */
    private static final int RESERVED_BYTES = 15 << 10;
    /** Rows of x that the kernel for two takes. */
    private static final int TWO = 2;
    /** What the wide kernel and that for two take: whole units of columns, the same constant for a chunk of them. */
    private static final int UNIT = 256;
    private static final int CHUNK = 64;
    /** Between rows of x in its shared memory. */
    private static final int X_GAP = 16;
    /** {@code struct Matrix4} and {@code struct Matrices} of matrices.cuh. */
    private static final int MATRIX_BYTES = 10 * 8 + 6 * 4;
    private static final int LAYOUT_BYTES = MOST * MATRIX_BYTES + 3 * 8 + 8 * 4;
    /** Into as many pieces a row of A is cut at most; a step of a warp's columns. */
    private static final int MOST_PIECES = 4;
    private static final int PIECE_STEP = 128;

    private final CudaBackend cuda;
    private final Kernel kernel;
    private final Kernel wideKernel;
    private final Kernel twoKernel;
    /** {@code Matrices.arrived}. */
    private final Tensor arrived;
    private final ThreadLocal<MemorySegment> layout = ThreadLocal
            .withInitial(() -> Arena.ofAuto().allocate(LAYOUT_BYTES, 8));

    /**
     * One matrix and what becomes of its product.
     *
     * @param residual like y, or null
     * @param bias [out] or null
     * @param pair an adapter of all rows, or null
     * @param u [m, r or more] float32, {@code x·Aᵀ}; null without an adapter
     */
    record Product(QuantizedTensor w, Tensor y, Tensor residual, Tensor bias, LoraPair pair, Tensor u) {
    }

    /**
     * What the kernel for two rows does beside the products.
     *
     * @param norm [in] in bfloat16, the weight of an RMSNorm that x goes through first; or null
     * @param gated [m, out], {@code silu(y0)·y1} of two matrices, whose y are not written; or null
     * @param inner whether it computes u, too
     */
    record Beside(Tensor norm, double eps, Tensor gated, boolean inner) {
        static final Beside NOTHING = new Beside(null, 0, null, false);
    }

    /** How a launch is divided, and of which kernel. */
    record Division(int tilesPerBlock, int bytes, boolean copiesX, boolean wide, boolean two) {
    }

    CudaMatvec(CudaBackend cuda) {
        this.cuda = cuda;
        kernel = cuda.modules().kernel("nf4_matvec", "nf4_matvec_bf16");
        wideKernel = cuda.modules().kernel("nf4_matvec_wide", "nf4_matvec_wide_bf16");
        twoKernel = cuda.modules().kernel("nf4_matvec_two", "nf4_matvec_two_bf16");
        arrived = cuda.allocate(MemoryUse.WORKSPACE, DType.I32, 2);
        cuda.upload(Tensor.zeros(DType.I32, 2), arrived);
    }

    /** Whether matrices can go in one launch with {@code a}. */
    static boolean together(QuantizedTensor a, QuantizedTensor b) {
        return a.inFeatures() == b.inFeatures() && a.config().blocksize() == b.config().blocksize()
                && a.config().type() == b.config().type();
    }

    /**
     * A block a multiprocessor, unless its sums would not fit into shared memory; x is copied where there is room, which
     * the wide kernel and that for two need.
     *
     * @param ranks of all adapters, each a multiple of four: the kernel for two puts u in the place of x
     * @param gated whether tiles go in pairs
     * @param shared bytes that a block may ask for
     */
    static Division divide(int tiles, int m, int in, QuantConfig config, int ranks, boolean gated, int multiprocessors,
            int shared) {
        int limit = shared - RESERVED_BYTES;
        int row = Float.BYTES * m * TILE_ROWS;
        int even = Math.ceilDiv(tiles, multiprocessors);
        boolean whole = in % UNIT == 0;
        if (m <= TWO && whole && config.blocksize() == CHUNK && config.nested()) {
            // Beside sums, what is added to them, and constants, rows a little apart.
            int a = gated ? (even + 1) / 2 * 2 : even;
            int bytes = TABLE_BYTES + (WARPS + 2 * a) * row
                    + a * TILE_ROWS * Float.BYTES * (in / CHUNK + UNIT / CHUNK)
                    + m * Math.max(Short.BYTES * in + X_GAP, Float.BYTES * ranks);
            // A thread has one result.
            if (bytes <= limit && (gated ? a / 2 : a) * TILE_ROWS * m <= THREADS) {
                return new Division(a, bytes, true, true, true);
            }
        }
        int perBlock = Math.min(even, (limit - TABLE_BYTES) / row - WARPS);
        int bytes = TABLE_BYTES + (WARPS + perBlock) * row;
        long withX = bytes + (long) m * (Short.BYTES * in + X_GAP);
        boolean copies = withX <= limit;
        return new Division(perBlock, copies ? (int) withX : bytes, copies,
                copies && whole && config.blocksize() >= CHUNK, false);
    }

    private Division divide(int m, boolean gated, Product... products) {
        QuantizedTensor first = products[0].w;
        int tiles = 0;
        int ranks = 0;
        for (Product p : products) {
            tiles += Math.ceilDiv(p.w.outFeatures(), TILE_ROWS);
            ranks += p.pair == null ? 0 : (p.pair.rank() + 3) / 4 * 4;
        }
        return divide(tiles, m, first.inFeatures(), first.config(), ranks, gated,
                cuda.context().multiprocessors(), cuda.context().sharedPerBlock());
    }

    /** Whether {@link #multiply} can do {@code beside}; of the products only shapes and adapters are looked at. */
    boolean takes(int m, Beside beside, Product... products) {
        boolean gated = beside.gated != null;
        Division d = divide(m, gated, products);
        if (!d.two || gated && (products.length != 2
                || products[0].w.outFeatures() != products[1].w.outFeatures())) {
            return false;
        }
        for (Product p : products) {
            if (beside.inner && p.pair != null && !CudaMatmul.aligned(p.pair.a())) {
                return false;
            }
        }
        return true;
    }

    /** The kernel for two has at most a block a multiprocessor: its blocks wait for each other's part of u. */
    private int blocks(int tiles, Division d, boolean gated) {
        return d.two ? Math.min(gated ? tiles / 2 : tiles, cuda.context().multiprocessors())
                : Math.ceilDiv(tiles, d.tilesPerBlock);
    }

    /** {@code y = x·Wᵀ + residual + bias + scale·u·Bᵀ} of each. */
    void multiply(CudaStream s, Tensor x, long map, long codebook, Beside beside, Product... products) {
        QuantizedTensor first = products[0].w;
        int m = x.rows();
        int tiles = 0;
        int ranks = 0;
        MemorySegment all = layout.get();
        boolean gated = beside.gated != null;
        for (int i = 0; i < MOST; i++) {
            Product p = i < products.length ? products[i] : null;
            write(all.asSlice((long) i * MATRIX_BYTES, MATRIX_BYTES), p, i == 0 && gated ? beside.gated : null, tiles);
            if (p != null) {
                tiles += Math.ceilDiv(p.w.outFeatures(), TILE_ROWS);
                ranks += p.pair == null ? 0 : p.pair.rank();
            }
        }
        Division d = divide(m, gated, products);
        int blocks = blocks(tiles, d, gated);
        int in = first.inFeatures();
        int pieces = beside.inner && ranks > 0
                ? Math.clamp(WARPS * blocks / ranks, 1, Math.min(MOST_PIECES, in / PIECE_STEP))
                : 0;
        long[] pointers = {address(beside.norm),
                pieces == 0 ? 0 : cuda.workspace(DType.F32.bytes((long) m * ranks * pieces)), address(arrived)};
        int[] numbers = {Float.floatToRawIntBits((float) beside.eps), tiles, in,
                Integer.numberOfTrailingZeros(first.config().blocksize()), ranks > 0 ? 1 : 0, pieces, gated ? 1 : 0, 0};
        long rest = (long) MOST * MATRIX_BYTES;
        MemorySegment.copy(pointers, 0, all, ValueLayout.JAVA_LONG, rest, pointers.length);
        MemorySegment.copy(numbers, 0, all, ValueLayout.JAVA_INT, rest + 8L * pointers.length, numbers.length);
        Kernel.Args args = Kernel.args().ptr(x).i32(m).ptr(map).ptr(codebook).i32(d.tilesPerBlock);
        (d.two ? twoKernel : d.wide ? wideKernel : kernel).launch(s, blocks, 1, 1, THREADS, d.bytes,
                (d.wide ? args : args.flag(d.copiesX)).bytes(all, 8));
    }

    private static void write(MemorySegment to, Product p, Tensor gated, int firstTile) {
        boolean adapted = p != null && p.pair != null;
        long[] pointers = p == null ? new long[10]
                : new long[]{address(p.w.packed()), address(p.w.absmax()), address(p.w.absmax2()),
                        address(p.w.offset()), address(p.residual), address(p.bias),
                        address(gated == null ? p.y : gated), adapted ? address(p.pair.a()) : 0,
                        adapted ? address(p.pair.b()) : 0, address(p.u)};
        MemorySegment.copy(pointers, 0, to, ValueLayout.JAVA_LONG, 0, pointers.length);
        int[] numbers = {p == null ? 0 : p.w.outFeatures(), p == null ? Integer.MAX_VALUE : firstTile,
                adapted ? p.pair.rank() : 0, adapted ? p.u.cols() : 0,
                Float.floatToRawIntBits(adapted ? (float) p.pair.scale() : 0), 0};
        MemorySegment.copy(numbers, 0, to, ValueLayout.JAVA_INT, 8L * pointers.length, numbers.length);
    }

    private static long address(Tensor t) {
        return t == null ? 0 : t.data().address();
    }
}
