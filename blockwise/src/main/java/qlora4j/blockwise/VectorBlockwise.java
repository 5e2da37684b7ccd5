package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;
import java.util.List;
import qlora4j.nf4.Absmax;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;
import qlora4j.tensor.VectorGemm;

/** Vector API kernels on a team of threads. Tasks are runs of whole blocks, so they write disjoint bytes. */
final class VectorBlockwise implements BlockwiseKernels {
    /** Elements a task works on: enough to hide the cost of starting it, few enough to share out evenly. */
    private static final int TASK_ELEMENTS = 1 << 15;
    /** Chunks of constants that a task adds up. */
    private static final int CHUNKS_PER_TASK = 64;

    private final Team team;
    private final VectorCodec[] codecs = VectorCodec.ofTypes();
    private final VectorEncoder[] encoders = VectorEncoder.ofTypes();
    private final float[][] block;
    private final VectorEncoder.Scratch[] runs;
    private final float[][] blockConstants;
    private final byte[][] blockCodes;
    private double[] chunkSums = new double[0];
    private final VectorGemm gemm;
    private final VectorQuantizedPanels panels;
    private final VectorFewRows fewRows;

    VectorBlockwise(Team team) {
        this.team = team;
        block = new float[team.size()][QuantConfig.MAX_BLOCKSIZE];
        runs = new VectorEncoder.Scratch[team.size()];
        Arrays.setAll(runs, worker -> new VectorEncoder.Scratch());
        blockConstants = new float[team.size()][QuantConfig.MAX_BLOCKSIZE / QuantConfig.MIN_BLOCKSIZE];
        blockCodes = new byte[team.size()][QuantConfig.MAX_BLOCKSIZE];
        gemm = new VectorGemm(team);
        panels = new VectorQuantizedPanels(team);
        fewRows = new VectorFewRows(team);
    }

    /** One block's work. */
    private interface BlockTask {
        /** Works on elements {@code from .. from + n} of block {@code j}. */
        void run(long j, long from, int n, int worker);
    }

    private void forBlocks(long elements, int blocksize, BlockTask body) {
        long blocks = QuantConfig.blocks(elements, blocksize);
        int perTask = Math.max(1, TASK_ELEMENTS / blocksize);
        int tasks = Math.toIntExact((blocks + perTask - 1) / perTask);
        team.run(tasks, (task, worker) -> {
            long end = Math.min(blocks, (task + 1L) * perTask);
            for (long j = (long) task * perTask; j < end; j++) {
                long from = j * blocksize;
                body.run(j, from, (int) Math.min(blocksize, elements - from), worker);
            }
        });
    }

    /** Work on whole blocks, the last of which may be shorter. */
    private interface RunTask {
        /** Works on elements {@code from .. from + n}; n is at most {@link QuantConfig#MAX_BLOCKSIZE}. */
        void run(long from, int n, int worker);
    }

    /** Runs of elements that begin with a block, whatever the block size. */
    private void forRuns(long elements, RunTask body) {
        team.run(Math.toIntExact((elements + TASK_ELEMENTS - 1) / TASK_ELEMENTS), (task, worker) -> {
            long end = Math.min(elements, (task + 1L) * TASK_ELEMENTS);
            for (long from = (long) task * TASK_ELEMENTS; from < end; from += QuantConfig.MAX_BLOCKSIZE) {
                body.run(from, (int) Math.min(QuantConfig.MAX_BLOCKSIZE, end - from), worker);
            }
        });
    }

    @Override
    public void quantize4(Stream stream, Tensor x, QuantType type, int blocksize, Tensor packed, Tensor absmax) {
        VectorEncoder encoder = encoders[type.ordinal()];
        MemorySegment pairs = packed.data();
        MemorySegment constants = absmax.data();
        forRuns(x.size(),
                (from, n, worker) -> encoder.quantize(x, from, n, blocksize, pairs, constants, runs[worker]));
    }

    @Override
    public void dequantize4(Stream stream, QuantizedTensor w, Tensor out) {
        VectorCodec codec = codecs[w.config().type().ordinal()];
        Scales scales = new Scales(w);
        MemorySegment pairs = w.packed().data();
        int blocksize = w.config().blocksize();
        forRuns(w.size(), (from, n, worker) -> {
            scales.get(from / blocksize, (n + blocksize - 1) / blocksize, blockConstants[worker], 0, 1);
            codec.decode(pairs, from, n, blockConstants[worker], blocksize, block[worker], 0);
            Elements.store(block[worker], 0, n, out, from);
        });
    }

    /** Chunks are summed in parallel, each in its order, then their sums in theirs. */
    @Override
    public synchronized void mean(Stream stream, Tensor absmax, Tensor mean) {
        long n = absmax.size();
        int chunks = Math.toIntExact((n + ScalarBlockwise.MEAN_CHUNK - 1) / ScalarBlockwise.MEAN_CHUNK);
        if (chunkSums.length < chunks) {
            chunkSums = new double[chunks];
        }
        double[] sums = chunkSums;
        MemorySegment constants = absmax.data();
        int tasks = (chunks + CHUNKS_PER_TASK - 1) / CHUNKS_PER_TASK;
        team.run(tasks, (task, worker) -> {
            int c = task * CHUNKS_PER_TASK;
            int end = Math.min(chunks, c + CHUNKS_PER_TASK);
            for (; c <= end - 4 && (c + 4L) * ScalarBlockwise.MEAN_CHUNK <= n; c += 4) {
                sumFour(constants, c, sums);
            }
            for (; c < end; c++) {
                long from = (long) c * ScalarBlockwise.MEAN_CHUNK;
                int count = (int) Math.min(ScalarBlockwise.MEAN_CHUNK, n - from);
                double sum = 0;
                for (int i = 0; i < count; i++) {
                    sum += constants.get(Elements.FLOAT, 4 * (from + i));
                }
                sums[c] = sum;
            }
        });
        double total = 0;
        for (int c = 0; c < chunks; c++) {
            total += sums[c];
        }
        mean.set(0, n == 0 ? 0 : total / n);
    }

    /** The sums of four chunks, in turns: an addition need not wait for the one before. */
    private static void sumFour(MemorySegment constants, int chunk, double[] sums) {
        long apart = 4L * ScalarBlockwise.MEAN_CHUNK;
        double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
        for (long at = chunk * apart; at < (chunk + 1) * apart; at += 4) {
            s0 += constants.get(Elements.FLOAT, at);
            s1 += constants.get(Elements.FLOAT, at + apart);
            s2 += constants.get(Elements.FLOAT, at + 2 * apart);
            s3 += constants.get(Elements.FLOAT, at + 3 * apart);
        }
        sums[chunk] = s0;
        sums[chunk + 1] = s1;
        sums[chunk + 2] = s2;
        sums[chunk + 3] = s3;
    }

    @Override
    public void quantize8(Stream stream, Tensor x, Tensor offset, DynamicMap map, int blocksize, Tensor codes,
            Tensor absmax) {
        MemorySegment bytes = codes.data();
        MemorySegment constants = absmax.data();
        float shift = offset == null ? 0 : offset.data().get(Elements.FLOAT, 0);
        DynamicIndex index = DynamicIndex.of(map);
        forBlocks(x.size(), blocksize, (j, from, n, worker) -> {
            float[] values = block[worker];
            Elements.load(x, from, n, values, 0);
            for (int i = 0; i < n; i++) {
                values[i] -= shift;
            }
            float constant = Absmax.ofBits(VectorEncoder.magnitude(values, 0, n));
            constants.set(Elements.FLOAT, 4 * j, constant);
            VectorEncoder.normalize(values, 0, n, constant);
            byte[] found = blockCodes[worker];
            if (Float.isFinite(constant)) {
                index.codes(values, n, found);
            } else {
                for (int i = 0; i < n; i++) {
                    found[i] = (byte) index.code(values[i]);
                }
            }
            MemorySegment.copy(found, 0, bytes, Elements.BYTE, from, n);
        });
    }

    @Override
    public void dequantize8(Stream stream, Tensor codes, Tensor absmax, Tensor offset, DynamicMap map, int blocksize,
            Tensor out) {
        MemorySegment bytes = codes.data();
        MemorySegment constants = absmax.data();
        float shift = offset == null ? -0f : offset.data().get(Elements.FLOAT, 0);
        forBlocks(codes.size(), blocksize, (j, from, n, worker) -> {
            float[] values = block[worker];
            float constant = constants.get(Elements.FLOAT, 4 * j);
            for (int i = 0; i < n; i++) {
                // Adding -0 changes no number, not even a zero's sign.
                values[i] = map.value(bytes.get(Elements.BYTE, from + i) & 0xff) * constant + shift;
            }
            Elements.store(values, 0, n, out, from);
        });
    }

    @Override
    public void matmul(Stream stream, Tensor x, QuantizedTensor w, Tensor y) {
        if (x.rows() <= VectorFewRows.MAX && VectorFewRows.byWords(x, w)) {
            fewRows.matmul(x, product(w, y));
        } else if (x.rows() <= VectorFewRows.MAX) {
            fewRows.matmul(x, panels.of(w, x.dtype()), y);
        } else {
            multiply(x, panels.columns(w, x.dtype()), null, y);
        }
    }

    @Override
    public void matmul(Stream stream, Tensor x, QuantizedTensor[] w, Tensor[] y) {
        VectorFewRows.Product[] products = new VectorFewRows.Product[w.length];
        for (int i = 0; i < w.length; i++) {
            if (x.rows() > VectorFewRows.MAX || !VectorFewRows.byWords(x, w[i])) {
                BlockwiseKernels.super.matmul(stream, x, w, y);
                return;
            }
            products[i] = product(w[i], y[i]);
        }
        fewRows.matmul(x, products);
    }

    private VectorFewRows.Product product(QuantizedTensor w, Tensor y) {
        return new VectorFewRows.Product(w, codecs[w.config().type().ordinal()], y);
    }

    @Override
    public void matmulBackward(Stream stream, Tensor dy, QuantizedTensor w, boolean accumulate, Tensor dx) {
        multiply(dy, panels.rows(w, dy.dtype()), accumulate ? dx : null, dx);
    }

    private void multiply(Tensor a, VectorGemm.PanelSource b, Tensor base, Tensor c) {
        gemm.multiply(List.of(new VectorGemm.Part(a, 1)), List.of(new VectorGemm.Result(c, base, false, b)));
    }
}
