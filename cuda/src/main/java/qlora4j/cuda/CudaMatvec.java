package qlora4j.cuda;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.Tensor;

/**
 * Products of up to {@link CudaMatmul#FEW_ROWS} bfloat16 rows with up to {@link #MOST} 4-bit matrices in one launch of
 * {@code nf4_matvec.cu}, which adds each matrix's residual, bias and adapter before it rounds.
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
    /** {@code struct Matrix4} and {@code struct Matrices} of matrices.cuh. */
    private static final int MATRIX_BYTES = 9 * 8 + 6 * 4;
    private static final int LAYOUT_BYTES = MOST * MATRIX_BYTES + 4 * 4;

    private final CudaBackend cuda;
    private final Kernel kernel;
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
    private record Division(int tilesPerBlock, int bytes, boolean copiesX) {
    }

    CudaMatvec(CudaBackend cuda) {
        this.cuda = cuda;
        kernel = cuda.modules().kernel("nf4_matvec", "nf4_matvec_bf16");
    }

    /** Whether matrices can go in one launch with {@code a}. */
    static boolean together(QuantizedTensor a, QuantizedTensor b) {
        return a.inFeatures() == b.inFeatures() && a.config().blocksize() == b.config().blocksize()
                && a.config().type() == b.config().type();
    }

    /** A block a multiprocessor, unless its sums would not fit into shared memory; x is copied where there is room. */
    private Division divide(int tiles, int m, int in) {
        int limit = cuda.context().sharedPerBlock() - RESERVED_BYTES;
        int most = (limit - TABLE_BYTES) / (Float.BYTES * m * TILE_ROWS) - WARPS;
        int perBlock = Math.min(Math.ceilDiv(tiles, cuda.context().multiprocessors()), most);
        int bytes = TABLE_BYTES + Float.BYTES * (WARPS + perBlock) * m * TILE_ROWS;
        long withX = bytes + (long) Short.BYTES * m * in;
        return withX <= limit ? new Division(perBlock, (int) withX, true) : new Division(perBlock, bytes, false);
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
        Division d = divide(tiles, x.rows(), in);
        kernel.launch(s, Math.ceilDiv(tiles, d.tilesPerBlock), 1, 1, THREADS, d.bytes,
                Kernel.args().ptr(x).i32(x.rows()).ptr(map).ptr(codebook).i32(d.tilesPerBlock)
                        .flag(d.copiesX).bytes(all, 8));
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
