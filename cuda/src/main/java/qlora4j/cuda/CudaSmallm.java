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
    private static final int ALIGNMENT = 256;

    private final CudaBackend cuda;
    private final boolean hopper;
    private final Kernel[] kernels = new Kernel[3];
    private final Kernel[] hopperKernels = new Kernel[3];
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
        int m = x.rows();
        int out = w.outFeatures();
        int tiles = tiles(m);
        int groups = units ? 1 : Math.ceilDiv(m, 8 * tiles);
        int parts = parts(w.inFeatures(), Math.ceilDiv(out, BLOCK_ROWS) * groups);
        boolean whole = parts == 1;
        Tensor residualNow = whole ? residual : null;
        Tensor biasNow = whole ? bias : null;
        long partialBytes = whole ? 0 : DType.F32.bytes((long) parts * m * out);
        long partial;
        if (units) {
            int tokens = Math.max(16, Integer.highestOneBit(2 * m - 1));
            long factorAt = (partialBytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
            long imageAt = factorAt + ALIGNMENT;
            partial = cuda.workspace(imageAt + (long) tokens * w.inFeatures() * Short.BYTES);
            image.launch(s, tokens, IMAGE_THREADS, Kernel.args().ptr(x).i32(m).i32(w.inFeatures())
                    .ptr(partial + imageAt).ptr(partial + factorAt));
            hopperKernels[Integer.numberOfTrailingZeros(tokens / 16)].launchEarly(s, Math.ceilDiv(out, BLOCK_ROWS),
                    parts, HOPPER_WARPS * 32, hopperBytes(tokens),
                    weight.add(Kernel.args().ptr(partial + imageAt).ptr(partial + factorAt).i32(m)).i32(out)
                            .i32(w.inFeatures()).ptr(residualNow).ptr(biasNow).ptr(y).ptr(partial));
        } else {
            partial = whole ? 0 : cuda.workspace(partialBytes);
            kernels[Integer.numberOfTrailingZeros(tiles) - 1].launch(s, Math.ceilDiv(out, BLOCK_ROWS), parts, groups,
                    THREADS, sharedBytes(tiles), weight.add(Kernel.args().ptr(x).i32(m)).i32(out).i32(w.inFeatures())
                            .ptr(residualNow).ptr(biasNow).ptr(y).ptr(partial));
        }
        if (!whole) {
            sum.launch(s, Math.ceilDiv((long) m * out, SUM_THREADS), SUM_THREADS,
                    Kernel.args().ptr(partial).i32(parts).i32(m).i32(out).ptr(residual).ptr(bias).ptr(y));
        }
    }

    /** Blocks that share the columns of a tile of rows, so that all multiprocessors have work. */
    private int parts(int in, int blocks) {
        int slabs = Math.ceilDiv(in, SLAB);
        int parts = Math.clamp(cuda.context().multiprocessors() / blocks, 1, Math.max(1, slabs / 2));
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
    private static int hopperBytes(int tokens) {
        return X_STAGES * tokens * SLAB * Short.BYTES + Nf4Units.TABLE_BYTES
                + HOPPER_WARPS * STAGES * Nf4Units.CONSTANT_BYTES;
    }
}
