package qlora4j.cuda;

import qlora4j.blockwise.QuantizedTensor;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Products of 9 to {@link #ROWS} bfloat16 rows with a 4-bit matrix on tensor cores: {@code smallm.cu}, or on compute
 * capability 9.0 {@code smallm_hopper.cu} where W is in blocks of 64 whose constants are quantized too, as in QLoRA.
 */
final class CudaSmallm {
    /** The most rows of x. */
    static final int ROWS = 64;

    /** Rows of W that a block has. */
    private static final int BLOCK_ROWS = 128;
    /** Columns that a block copies at a time: a slab of smallm.cu, a unit of nf4_units.cuh. */
    private static final int SLAB = 256;
    private static final int SUM_THREADS = 256;

    private static final int THREADS = 512;
    private static final int SHARES = 4;
    private static final int PAIR_TABLE_BYTES = 256 * 16 * 8;
    /** What a block of smallm.cu holds beside its slabs: constants, and the values of their codes. */
    private static final int RESERVED_BYTES = 11 << 10;

    private static final int IMAGE_THREADS = 512;
    static final int HOPPER_WARPS = 8;
    /** Units of x that a block asks for ahead, and units of W that a warp does. */
    static final int X_STAGES = 3;
    static final int STAGES = 2;
    /**
     * Of a multiprocessor's 227 KB, what a block asks for where two would fit: they begin early, and two would come to lie
     * on one multiprocessor while another has none.
     */
    private static final int MOST_OF_SHARED = 198 << 10;
    private static final int ALIGNMENT = 256;
    /** A helper counts columns one round of tiles beyond W, in 32 bits. */
    private static final long MOST_HELPED_ELEMENTS = 1L << 30;

    private final CudaBackend cuda;
    private final boolean hopper;
    private final Kernel[] kernels = new Kernel[3];
    private final Kernel[] hopperKernels = new Kernel[3];
    private final Kernel helped;
    private final Kernel image;
    private final Kernel sum;

    CudaSmallm(CudaBackend cuda) {
        this.cuda = cuda;
        CudaModules m = cuda.modules();
        hopper = m.hopper("smallm_hopper");
        for (int i = 0; i < kernels.length; i++) {
            kernels[i] = m.kernel("smallm", "nf4_smallm_" + (2 << i));
            hopperKernels[i] = m.kernel("smallm_hopper", "nf4_smallm_" + (16 << i) + "_h");
        }
        helped = m.kernel("smallm_hopper", "nf4_smallm_64_helped");
        image = m.kernel("smallm_hopper", "nf4_smallm_x");
        sum = m.kernel("smallm", "nf4_smallm_sum");
    }

    /** What describes W to a kernel. */
    interface Weight {
        Kernel.Args add(Kernel.Args args);
    }

    /** Whether there is shared memory for this many rows. */
    boolean fits(int rows) {
        return fitsTiles(tiles(rows));
    }

    /** {@code y = x·Wᵀ + residual + bias}. */
    void multiply(CudaStream s, Tensor x, QuantizedTensor w, Weight weight, Tensor y, Tensor residual, Tensor bias) {
        boolean units = hopper && w.outFeatures() % 4 == 0 && Nf4Units.takes(w.inFeatures(), w.config())
                && CudaMatmul.aligned(w.absmax()) && CudaMatmul.aligned(y)
                && (residual == null || CudaMatmul.aligned(residual))
                && (bias == null || CudaMatmul.aligned(bias));
        if (units) {
            multiplyUnits(s, x, w, weight, y, residual, bias);
            return;
        }
        int m = x.rows();
        int out = w.outFeatures();
        int tiles = tiles(m);
        int groups = Math.ceilDiv(m, 8 * tiles);
        int blocks = Math.ceilDiv(out, BLOCK_ROWS);
        int parts = parts(w.inFeatures(), blocks * groups, cuda.context().multiprocessors());
        boolean whole = parts == 1;
        long partial = whole ? 0 : cuda.workspace(DType.F32.bytes((long) parts * m * out));
        kernels[Integer.numberOfTrailingZeros(tiles) - 1].launch(s, blocks, parts, groups, THREADS, sharedBytes(tiles),
                weight.add(Kernel.args().ptr(x).i32(m)).i32(out).i32(w.inFeatures()).ptr(whole ? residual : null)
                        .ptr(whole ? bias : null).ptr(y).ptr(partial));
        if (!whole) {
            add(s, partial, parts, y, residual, bias);
        }
    }

    private void multiplyUnits(CudaStream s, Tensor x, QuantizedTensor w, Weight weight, Tensor y, Tensor residual,
            Tensor bias) {
        int m = x.rows();
        int out = w.outFeatures();
        int in = w.inFeatures();
        int tokens = Math.max(16, Integer.highestOneBit(2 * m - 1));
        Division d = divide(tokens, out, in, cuda.context().multiprocessors());
        int flags = d.helpers() * HOPPER_WARPS;
        // In the workspace: sums that others add, whether they are there, factors of x, x.
        long partialBytes = d.parts() > 1 ? DType.F32.bytes((long) d.parts() * m * out)
                : d.helpers() > 0 ? DType.F32.bytes((long) d.tiles() * BLOCK_ROWS * tokens) : 0;
        long arrivedAt = aligned(partialBytes);
        long factorAt = arrivedAt + aligned((long) flags * Integer.BYTES);
        long imageAt = factorAt + aligned(DType.F32.bytes(tokens));
        long partial = cuda.workspace(imageAt + (long) tokens * in * Short.BYTES);
        image.launch(s, tokens, IMAGE_THREADS, Kernel.args().ptr(x).i32(m).i32(in).ptr(partial + imageAt)
                .ptr(partial + factorAt).ptr(partial + arrivedAt).i32(flags));
        boolean whole = d.parts() == 1;
        Kernel.Args args = weight.add(Kernel.args().ptr(partial + imageAt).ptr(partial + factorAt).i32(m)).i32(out)
                .i32(in).ptr(whole ? residual : null).ptr(whole ? bias : null).ptr(y).ptr(partial);
        Kernel kernel = hopperKernels[Integer.numberOfTrailingZeros(tokens / 16)];
        if (d.helpers() > 0) {
            kernel = helped;
            args.ptr(partial + arrivedAt).i32(d.helpers()).i32(d.given());
        }
        kernel.launchEarly(s, d.tiles() + d.helpers(), d.parts(), HOPPER_WARPS * 32, hopperBytes(tokens), args);
        if (!whole) {
            add(s, partial, d.parts(), y, residual, bias);
        }
    }

    /** {@code y =} the sum of {@code parts} products, plus residual and bias. */
    private void add(CudaStream s, long partial, int parts, Tensor y, Tensor residual, Tensor bias) {
        sum.launchEarly(s, Math.ceilDiv(y.size(), SUM_THREADS), SUM_THREADS, Kernel.args().ptr(partial).i32(parts)
                .i32(y.rows()).i32(y.cols()).ptr(residual).ptr(bias).ptr(y));
    }

    private static long aligned(long bytes) {
        return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    }

    /**
     * How the blocks of smallm_hopper.cu share the work.
     *
     * @param tiles of {@link #BLOCK_ROWS} rows of W
     * @param parts blocks that share the columns of a tile
     * @param helpers blocks that have the last columns of several tiles
     * @param given units of columns of each tile that a helper has
     */
    record Division(int tiles, int parts, int helpers, int given) {
    }

    /**
     * A block for each multiprocessor, if there are not more tiles than that. A tile has helpers only beside 64 tokens and
     * only where all tiles are full and elements can be counted in 32 bits.
     */
    static Division divide(int tokens, int out, int in, int multiprocessors) {
        int tiles = Math.ceilDiv(out, BLOCK_ROWS);
        int parts = parts(in, tiles, multiprocessors);
        int helpers = Math.min(tiles, Math.max(0, multiprocessors - tiles));
        if (parts > 1 || helpers == 0 || tokens < ROWS || out % BLOCK_ROWS != 0
                || (long) out * in > MOST_HELPED_ELEMENTS) {
            return new Division(tiles, parts, 0, 0);
        }
        // A helper has a unit less than an owner keeps, or still less: given * a helper's tiles < units - given.
        int given = (in / SLAB - 1) / (Math.ceilDiv(tiles, helpers) + 1);
        return new Division(tiles, 1, given == 0 ? 0 : helpers, given);
    }

    /** Blocks that share the columns of a tile of rows, so that all multiprocessors have work. */
    private static int parts(int in, int blocks, int multiprocessors) {
        int slabs = Math.ceilDiv(in, SLAB);
        int parts = Math.clamp(multiprocessors / blocks, 1, Math.max(1, slabs / 2));
        // As in the kernels: no block of columns is left without a slab.
        return Math.ceilDiv(slabs, Math.ceilDiv(slabs, parts));
    }

    /** Tiles of 8 rows of x that a block of smallm.cu has: all of them, or half where all do not fit. */
    private int tiles(int rows) {
        int all = rows <= 16 ? 2 : rows <= 32 ? 4 : 8;
        return all == 2 || fitsTiles(all) ? all : all / 2;
    }

    /** Shared memory of smallm.cu: the table and two slabs of x and W, later each share's sums in their place. */
    private static int sharedBytes(int tiles) {
        int slab = tiles * 8 * SLAB * Short.BYTES + BLOCK_ROWS * SLAB / 2;
        int sums = SHARES * tiles * 8 * (BLOCK_ROWS + 4) * Float.BYTES;
        return Math.max(PAIR_TABLE_BYTES + 2 * slab, sums);
    }

    private boolean fitsTiles(int tiles) {
        return sharedBytes(tiles) + RESERVED_BYTES <= cuda.context().sharedPerBlock();
    }

    /** Shared memory of smallm_hopper.cu: units of x, the table with units of W, constants. */
    static int hopperBytes(int tokens) {
        int bytes = X_STAGES * tokens * SLAB * Short.BYTES + Nf4Units.TABLE_BYTES
                + HOPPER_WARPS * STAGES * Nf4Units.CONSTANT_BYTES;
        return 2 * bytes > MOST_OF_SHARED ? bytes : MOST_OF_SHARED;
    }
}
