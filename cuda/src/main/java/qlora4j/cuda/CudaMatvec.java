package qlora4j.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.Tensor;

/**
 * Products of up to {@link CudaMatmul#FEW_ROWS} bfloat16 rows with up to {@link #MOST} 4-bit matrices in one launch of
 * {@code nf4_matvec_wide.cu} or, where their layout is not as nearly always, of {@code nf4_matvec.cu}. Each matrix's residual,
 * bias and adapter are added before results are rounded.
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
    /** What the wide kernel takes: whole units of columns, the same constant for a chunk of them. */
    private static final int UNIT = 256;
    private static final int CHUNK = 64;
    /** Between rows of x in its shared memory. */
    private static final int X_GAP = 16;
    /** {@code struct Matrix4} and {@code struct Matrices} of matrices.cuh. */
    private static final int MATRIX_BYTES = 9 * 8 + 6 * 4;
    private static final int LAYOUT_BYTES = MOST * MATRIX_BYTES + 4 * 4;

    private final CudaBackend cuda;
    private final Kernel kernel;
    private final Kernel wideKernel;
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

    /** How a launch is divided. */
    record Division(int tilesPerBlock, int bytes, boolean copiesX, boolean wide) {
    }

    CudaMatvec(CudaBackend cuda) {
        this.cuda = cuda;
        kernel = cuda.modules().kernel("nf4_matvec", "nf4_matvec_bf16");
        wideKernel = cuda.modules().kernel("nf4_matvec_wide", "nf4_matvec_wide_bf16");
    }

    /** Whether matrices can go in one launch with {@code a}. */
    static boolean together(QuantizedTensor a, QuantizedTensor b) {
        return a.inFeatures() == b.inFeatures() && a.config().blocksize() == b.config().blocksize()
                && a.config().type() == b.config().type();
    }

    /**
     * A block a multiprocessor, unless its sums would not fit into shared memory; x is copied where there is room, which
     * the wide kernel needs.
     *
     * @param shared bytes that a block may ask for
     */
    static Division divide(int tiles, int m, int in, int blocksize, int multiprocessors, int shared) {
        int limit = shared - RESERVED_BYTES;
        int most = (limit - TABLE_BYTES) / (Float.BYTES * m * TILE_ROWS) - WARPS;
        int perBlock = Math.min(Math.ceilDiv(tiles, multiprocessors), most);
        int bytes = TABLE_BYTES + Float.BYTES * (WARPS + perBlock) * m * TILE_ROWS;
        long withX = bytes + (long) m * (Short.BYTES * in + X_GAP);
        boolean copies = withX <= limit;
        return new Division(perBlock, copies ? (int) withX : bytes, copies,
                copies && in % UNIT == 0 && blocksize >= CHUNK);
    }

    /** {@code y = x·Wᵀ + residual + bias + scale·u·Bᵀ} of each. */
    void multiply(CudaStream s, Tensor x, long map, long codebook, Product... products) {
        QuantizedTensor first = products[0].w;
        int tiles = 0;
        MemorySegment all = layout.get();
        boolean adapted = false;
        for (int i = 0; i < MOST; i++) {
            Product p = i < products.length ? products[i] : null;
            write(all.asSlice((long) i * MATRIX_BYTES, MATRIX_BYTES), p, tiles);
            if (p != null) {
                tiles += Math.ceilDiv(p.w.outFeatures(), TILE_ROWS);
                adapted |= p.pair != null;
            }
        }
        int in = first.inFeatures();
        int blocksize = first.config().blocksize();
        long rest = (long) MOST * MATRIX_BYTES;
        all.set(ValueLayout.JAVA_INT, rest, tiles);
        all.set(ValueLayout.JAVA_INT, rest + 4, in);
        all.set(ValueLayout.JAVA_INT, rest + 8, Integer.numberOfTrailingZeros(blocksize));
        all.set(ValueLayout.JAVA_INT, rest + 12, adapted ? 1 : 0);
        Division d = divide(tiles, x.rows(), in, blocksize, cuda.context().multiprocessors(),
                cuda.context().sharedPerBlock());
        Kernel.Args args = Kernel.args().ptr(x).i32(x.rows()).ptr(map).ptr(codebook).i32(d.tilesPerBlock);
        (d.wide ? wideKernel : kernel).launch(s, Math.ceilDiv(tiles, d.tilesPerBlock), 1, 1, THREADS, d.bytes,
                (d.wide ? args : args.flag(d.copiesX)).bytes(all, 8));
    }

    private static void write(MemorySegment to, Product p, int firstTile) {
        long[] pointers = p == null ? new long[9]
                : new long[]{address(p.w.packed()), address(p.w.absmax()), address(p.w.absmax2()),
                        address(p.w.offset()), address(p.residual), address(p.bias), address(p.y),
                        p.pair == null ? 0 : address(p.pair.b()), address(p.u)};
        MemorySegment.copy(pointers, 0, to, ValueLayout.JAVA_LONG, 0, pointers.length);
        boolean adapted = p != null && p.pair != null;
        int[] numbers = {p == null ? 0 : p.w.outFeatures(), p == null ? Integer.MAX_VALUE : firstTile,
                adapted ? p.pair.rank() : 0, adapted ? p.u.cols() : 0,
                Float.floatToRawIntBits(adapted ? (float) p.pair.scale() : 0), 0};
        MemorySegment.copy(numbers, 0, to, ValueLayout.JAVA_INT, 8L * pointers.length, numbers.length);
    }

    private static long address(Tensor t) {
        return t == null ? 0 : t.data().address();
    }
}
