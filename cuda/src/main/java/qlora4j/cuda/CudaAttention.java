package qlora4j.cuda;

import java.util.Locale;
import qlora4j.model.AttentionShape;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/**
 * Attention and its gradient, of {@code DecoderKernels}: {@code attention_*.cu}. Which kernel runs follows from types and
 * shapes alone:
 *
 * <ul>
 * <li>float32: {@code attention_f32}, heads of up to 256 elements;
 * <li>bfloat16: {@code attention_hopper} and {@code attention_hopper_backward} on compute capability 9.0 for heads of up
 * to 128, else {@code attention_bf16}; heads of a multiple of 8 elements, up to 256;
 * <li>a few queries over the keys of a cache, either type: {@code attention_decode}, which splits the keys.
 * </ul>
 *
 * Grids are sized from the number of rows and sequences; lengths are read on the device. The gradient needs 4 (float32) or
 * 8 bytes of workspace for each query and head, and for few rows a few times dk and dv in float32; decoding a fixed amount.
 */
final class CudaAttention {
    private static final int MOST_WIDTH = 256;
    /** Widths of heads that kernels are compiled for; a narrower head is padded in shared memory. */
    private static final int[] WIDTHS = {64, 128, MOST_WIDTH};
    /** Bytes of one load of bfloat16 elements, to which rows must be aligned. */
    private static final int LOAD = 16;

    /** Rows of a block of {@code attention_f32} and {@code attention_bf16}, and their threads. */
    private static final int ROWS = 64;
    private static final int F32_THREADS = 256;
    private static final int BF16_THREADS = 128;
    /** Rows of a tile of the kernels for Hopper, their threads, and their shared memory for barriers. */
    private static final int HOPPER_ROWS = 128;
    private static final int HOPPER_THREADS = 384;
    private static final int HOPPER_BARRIER_BYTES = 512;
    private static final int SUM_THREADS = 256;
    /** Rows (query, head) of a unit of {@code attention_decode}, keys of a part at least, threads. */
    private static final int UNIT = 16;
    private static final int PART_KEYS = 256;
    private static final int DECODE_THREADS = 128;

    private final CudaBackend backend;
    private final boolean hopper;
    private final int multiprocessors;
    /** Zero before and after each launch: tiles handed out by the Hopper kernels, parts finished by the decoding ones. */
    private final Allocation counters;

    private final Kernel[] forwardF32;
    private final Kernel[] queriesF32;
    private final Kernel[] keysF32;
    private final Kernel[] forward;
    private final Kernel[] queries;
    private final Kernel[] keys;
    private final Kernel[] forwardHopper;
    private final Kernel[] queriesHopper;
    private final Kernel[] keysHopper;
    private final Kernel[] keysInPartsHopper;
    private final Kernel sumHopper;
    private final Kernel[] decodeF32;
    private final Kernel[] decode;

    CudaAttention(CudaBackend backend) {
        this(backend, backend.modules().hopper("attention_hopper"));
    }

    /** With {@code hopper} false, the kernels that run everywhere. */
    CudaAttention(CudaBackend backend, boolean hopper) {
        this.backend = backend;
        this.hopper = hopper;
        multiprocessors = backend.context().multiprocessors();
        counters = backend.allocate(4L * Math.max(2, multiprocessors), MemoryUse.WORKSPACE);
        forwardF32 = kernels("attention_f32", "attention_d%d_f32");
        queriesF32 = kernels("attention_f32", "attention_dq_d%d_f32");
        keysF32 = kernels("attention_f32", "attention_dkdv_d%d_f32");
        forward = kernels("attention_bf16", "attention_d%d_bf16");
        queries = kernels("attention_bf16", "attention_dq_d%d_bf16");
        keys = kernels("attention_bf16", "attention_dkdv_d%d_bf16");
        forwardHopper = kernels("attention_hopper", "attention_hopper_d%d_bf16");
        queriesHopper = kernels("attention_hopper_backward", "attention_hopper_dq_d%d_bf16");
        keysHopper = kernels("attention_hopper_backward", "attention_hopper_dkdv_d%d_bf16");
        keysInPartsHopper = kernels("attention_hopper_backward", "attention_hopper_dkdv_parts_d%d_bf16");
        sumHopper = backend.modules().kernel("attention_hopper_backward", "attention_hopper_sum_bf16");
        decodeF32 = kernels("attention_decode", "attention_decode_d%d_f32");
        decode = kernels("attention_decode", "attention_decode_d%d_bf16");
    }

    private Kernel[] kernels(String module, String name) {
        Kernel[] k = new Kernel[WIDTHS.length];
        for (int i = 0; i < k.length; i++) {
            k[i] = backend.modules().kernel(module, String.format(Locale.ROOT, name, WIDTHS[i]));
        }
        return k;
    }

    /** See {@code DecoderKernels.attention}. */
    void forward(CudaStream s, AttentionShape a, Tensor q, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen,
            Tensor out, Tensor lse) {
        check(a, q, k, v, out);
        long rows = q.dim(0);
        int sequences = (int) kvStart.size();
        if (rows == 0) {
            return;
        }
        int w = width(a);
        if (rows <= (long) sequences * unitQueries(a)) {
            decode(s, a, w, q, k, v, cuQ, kvStart, kvLen, out, lse);
            return;
        }
        Kernel.Args args = Kernel.args().ptr(q).ptr(k).ptr(v).ptr(cuQ).ptr(kvStart).ptr(kvLen).ptr(out).ptr(lse);
        if (q.dtype() == DType.F32) {
            forwardF32[w].launch(s, blocks(rows, sequences, ROWS) * a.heads(), F32_THREADS,
                    shape(args.i32(sequences), a));
        } else if (onHopper(a)) {
            long tiles = blocks(rows, sequences, HOPPER_ROWS) * a.heads();
            launchHopper(s, forwardHopper[w], tiles, 6 * tileBytes(HOPPER_ROWS, w),
                    shape(args.ptr(counters()).i32(Math.toIntExact(tiles)).i32(sequences), a));
        } else {
            forward[w].launch(s, blocks(rows, sequences, ROWS) * a.heads(), 1, 1, BF16_THREADS,
                    tileBytes(ROWS, w) + 4 * tileBytes(stepRows(w), w), shape(args.i32(sequences), a));
        }
    }

    /** See {@code DecoderKernels.attentionBackward}: first dq with each row's statistics, then dk and dv. */
    void backward(CudaStream s, AttentionShape a, Tensor dOut, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse,
            Tensor cu, Tensor dq, Tensor dk, Tensor dv) {
        check(a, q, k, v, out);
        check(a, q, dOut, dq, dk);
        check(a, q, dv, dv, dv);
        long rows = q.dim(0);
        int sequences = (int) cu.size() - 1;
        if (rows == 0) {
            return;
        }
        int w = width(a);
        int n = Math.toIntExact(rows);
        if (q.dtype() == DType.F32) {
            long delta = backend.workspace(4 * rows * a.heads());
            long blocks = blocks(rows, sequences, ROWS);
            queriesF32[w].launch(s, blocks * a.heads(), F32_THREADS, shape(Kernel.args().ptr(dOut).ptr(q).ptr(k).ptr(v)
                    .ptr(out).ptr(lse).ptr(cu).ptr(dq).ptr(delta).i32(sequences).i32(n), a));
            keysF32[w].launch(s, blocks * a.kvHeads(), F32_THREADS, shape(Kernel.args().ptr(dOut).ptr(q).ptr(k).ptr(v)
                    .ptr(lse).ptr(delta).ptr(cu).ptr(dk).ptr(dv).i32(sequences).i32(n), a));
            return;
        }
        if (onHopper(a)) {
            long blocks = blocks(rows, sequences, HOPPER_ROWS);
            int parts = parts(a, blocks, multiprocessors);
            long partialBytes = parts == 1 ? 0 : 2 * 4 * parts * dk.size();
            long partial = backend.workspace(partialBytes + 8 * rows * a.heads());
            long stats = partial + partialBytes;
            int tile = tileBytes(HOPPER_ROWS, w);
            long tiles = blocks * a.heads();
            launchHopper(s, queriesHopper[w], tiles, 7 * tile, shape(Kernel.args().ptr(dOut).ptr(q).ptr(k).ptr(v)
                    .ptr(out).ptr(lse).ptr(cu).ptr(dq).ptr(stats).ptr(counters()).i32(Math.toIntExact(tiles))
                    .i32(sequences).i32(n), a));
            tiles = blocks * a.kvHeads() * parts;
            Kernel.Args args = Kernel.args().ptr(dOut).ptr(q).ptr(k).ptr(v).ptr(stats).ptr(cu).ptr(dk).ptr(dv)
                    .ptr(counters());
            if (parts > 1) {
                args.ptr(partial).i32(parts);
            }
            launchHopper(s, (parts > 1 ? keysInPartsHopper : keysHopper)[w], tiles,
                    6 * tile + 3 * 2 * 4 * (HOPPER_ROWS / 2),
                    shape(args.i32(Math.toIntExact(tiles)).i32(sequences).i32(n), a));
            if (parts > 1) {
                sumHopper.launch(s, Math.ceilDiv(2 * dk.size(), 4L * SUM_THREADS), SUM_THREADS, Kernel.args()
                        .ptr(partial).ptr(dk).ptr(dv).i32(parts).i64(dk.size()).f32((float) a.scale()));
            }
            return;
        }
        long stats = backend.workspace(8 * rows * a.heads());
        long blocks = blocks(rows, sequences, ROWS);
        int shared = 2 * tileBytes(ROWS, w) + 4 * tileBytes(stepRows(w), w);
        queries[w].launch(s, blocks * a.heads(), 1, 1, BF16_THREADS, shared, shape(Kernel.args().ptr(dOut).ptr(q).ptr(k)
                .ptr(v).ptr(out).ptr(lse).ptr(cu).ptr(dq).ptr(stats).i32(sequences).i32(n), a));
        // At the greatest width the sums of dk and dv of all columns do not fit one block's registers: two share them.
        int parts = WIDTHS[w] == MOST_WIDTH ? 2 : 1;
        keys[w].launch(s, blocks * a.kvHeads() * parts, 1, 1, BF16_THREADS, shared + 2 * 2 * 4 * stepRows(w),
                shape(Kernel.args().ptr(dOut).ptr(q).ptr(k).ptr(v).ptr(stats).ptr(cu).ptr(dk).ptr(dv).i32(sequences)
                        .i32(n), a));
    }

    private void decode(CudaStream s, AttentionShape a, int w, Tensor q, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart,
            Tensor kvLen, Tensor out, Tensor lse) {
        int sequences = (int) kvStart.size();
        long units = blocks(q.dim(0), sequences, unitQueries(a)) * a.kvHeads() * Math.ceilDiv(group(a), UNIT);
        int splits = splits(a, units, multiprocessors);
        // A row of sums with its maximum and total; also its pitch in shared memory, one for each of a unit and each warp.
        int rowBytes = 4 * (WIDTHS[w] + 4);
        // Enough for every such call of this width, so that it does not grow as sequences do.
        long workspace = backend.workspace(2L * multiprocessors * UNIT * rowBytes);
        Kernel kernel = (q.dtype() == DType.F32 ? decodeF32 : decode)[w];
        kernel.launch(s, units * splits, 1, 1, DECODE_THREADS, DECODE_THREADS / 32 * UNIT * rowBytes,
                Kernel.args().ptr(q).ptr(k).ptr(v).ptr(cuQ).ptr(kvStart)
                        .ptr(kvLen).ptr(out).ptr(lse).ptr(workspace).ptr(counters()).i32(sequences).i32(a.heads())
                        .i32(a.kvHeads()).i32(a.headDim()).i32(a.window()).i32(splits).f32((float) a.scale()));
    }

    /** Among how many blocks the keys of a unit are split: as many as fill the GPU about twice. */
    static int splits(AttentionShape a, long units, int multiprocessors) {
        long keys = a.window() == 0 ? a.maxLength() : Math.min(a.maxLength(), a.window() + unitQueries(a) - 1L);
        return (int) Math.clamp(2L * multiprocessors / units, 1, Math.max(1, Math.ceilDiv(keys, PART_KEYS)));
    }

    /**
     * Among how many tiles the query heads of a group are shared for dk and dv, where tiles of whole groups are too few to
     * keep the GPU busy: about two for each multiprocessor, since they differ in length.
     */
    static int parts(AttentionShape a, long blocks, int multiprocessors) {
        int parts = 1;
        for (int p = 2; p <= group(a) && blocks * a.kvHeads() * parts < 2L * multiprocessors; p++) {
            parts = group(a) % p == 0 ? p : parts;
        }
        return parts;
    }

    private static int group(AttentionShape a) {
        return a.heads() / a.kvHeads();
    }

    /** Queries of a unit. */
    private static int unitQueries(AttentionShape a) {
        return Math.max(1, UNIT / group(a));
    }

    /** Blocks of {@code size} rows that {@code rows} rows of {@code sequences} sequences are at most. */
    static long blocks(long rows, int sequences, int size) {
        return rows / size + sequences;
    }

    private boolean onHopper(AttentionShape a) {
        return hopper && a.headDim() <= MOST_WIDTH / 2;
    }

    private void launchHopper(CudaStream s, Kernel k, long tiles, int sharedBytes, Kernel.Args args) {
        k.launch(s, Math.min(tiles, multiprocessors), 1, 1, HOPPER_THREADS, sharedBytes + HOPPER_BARRIER_BYTES, args);
    }

    private long counters() {
        return counters.data().address();
    }

    private static int tileBytes(int rows, int w) {
        return rows * WIDTHS[w] * DType.BF16.bytes();
    }

    /** Rows of the other side that a block of {@code attention_bf16} takes at a time. */
    private static int stepRows(int w) {
        return WIDTHS[w] == MOST_WIDTH ? ROWS / 2 : ROWS;
    }

    private static Kernel.Args shape(Kernel.Args args, AttentionShape a) {
        return args.i32(a.heads()).i32(a.kvHeads()).i32(a.headDim()).i32(a.window()).f32((float) a.scale());
    }

    private static int width(AttentionShape a) {
        int w = 0;
        while (WIDTHS[w] < a.headDim()) {
            w++;
        }
        return w;
    }

    private static void check(AttentionShape a, Tensor q, Tensor... others) {
        if (q.dtype() != DType.F32 && q.dtype() != DType.BF16) {
            throw new IllegalArgumentException("attention on the cuda backend takes float32 and bfloat16, not " + q);
        }
        boolean bf16 = q.dtype() == DType.BF16;
        if (a.headDim() > MOST_WIDTH || bf16 && a.headDim() % (LOAD / DType.BF16.bytes()) != 0) {
            throw new IllegalArgumentException("attention on the cuda backend takes heads of up to " + MOST_WIDTH
                    + " elements, in bfloat16 a multiple of 8, not head_dim " + a.headDim()
                    + "; --compute-dtype float32 takes any up to " + MOST_WIDTH);
        }
        aligned(q, bf16);
        for (Tensor t : others) {
            Variants.same("attention", q, t);
            aligned(t, bf16);
        }
    }

    private static void aligned(Tensor t, boolean bf16) {
        if (bf16 && t.data().address() % LOAD != 0) {
            throw new IllegalArgumentException("attention on the cuda backend takes tensors at multiples of " + LOAD
                    + " bytes, not " + t);
        }
    }
}
