package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;
import qlora4j.tensor.VectorGemm;

/** Vector API kernels on a team of threads. Tasks are runs of whole blocks, so they write disjoint bytes. */
final class VectorBlockwise implements BlockwiseKernels {
    /** Elements a task works on: enough to hide the cost of starting it, few enough to share out evenly. */
    private static final int TASK_ELEMENTS = 1 << 15;

    private final Team team;
    private final ScalarBlockwise scalar = new ScalarBlockwise();
    private final VectorCodec[] codecs = new VectorCodec[QuantType.values().length];
    private final float[][] block;
    private final float[][] constants;
    private final VectorGemm gemm;
    private final VectorPanels.Scratch[] panelScratch;
    private final VectorFewRows fewRows;

    VectorBlockwise(Team team) {
        this.team = team;
        for (QuantType type : QuantType.values()) {
            codecs[type.ordinal()] = new VectorCodec(type.codebook());
        }
        block = new float[team.size()][QuantConfig.MAX_BLOCKSIZE];
        constants = new float[team.size()][QuantConfig.MAX_BLOCKSIZE / QuantConfig.MIN_BLOCKSIZE];
        gemm = new VectorGemm(team);
        panelScratch = VectorPanels.Scratch.of(team.size());
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

    @Override
    public void quantize4(Stream stream, Tensor x, QuantType type, int blocksize, Tensor packed, Tensor absmax) {
        VectorCodec codec = codecs[type.ordinal()];
        MemorySegment pairs = packed.data();
        MemorySegment constants = absmax.data();
        forBlocks(x.size(), blocksize, (j, from, n, worker) -> {
            float[] values = block[worker];
            Elements.load(x, from, n, values, 0);
            float constant = VectorCodec.absmax(values, n);
            constants.set(Elements.FLOAT, 4 * j, constant);
            VectorCodec.normalize(values, n, constant);
            codec.encode(values, n, pairs, from / 2);
        });
    }

    @Override
    public void dequantize4(Stream stream, QuantizedTensor w, Tensor out) {
        VectorCodec codec = codecs[w.config().type().ordinal()];
        Scales scales = new Scales(w);
        MemorySegment pairs = w.packed().data();
        int blocksize = w.config().blocksize();
        long size = w.size();
        team.run(Math.toIntExact((size + TASK_ELEMENTS - 1) / TASK_ELEMENTS), (task, worker) -> {
            long end = Math.min(size, (task + 1L) * TASK_ELEMENTS);
            for (long from = (long) task * TASK_ELEMENTS; from < end; from += QuantConfig.MAX_BLOCKSIZE) {
                int n = (int) Math.min(QuantConfig.MAX_BLOCKSIZE, end - from);
                scales.get(from / blocksize, (n + blocksize - 1) / blocksize, constants[worker], 0, 1);
                codec.decode(pairs, from, n, constants[worker], blocksize, block[worker], 0);
                Elements.store(block[worker], 0, n, out, from);
            }
        });
    }

    /** A sum in one fixed order is sequential; the constants are few. */
    @Override
    public void mean(Stream stream, Tensor absmax, Tensor mean) {
        scalar.mean(stream, absmax, mean);
    }

    @Override
    public void quantize8(Stream stream, Tensor x, Tensor offset, DynamicMap map, int blocksize, Tensor codes,
            Tensor absmax) {
        MemorySegment bytes = codes.data();
        MemorySegment constants = absmax.data();
        float shift = offset == null ? 0 : offset.data().get(Elements.FLOAT, 0);
        forBlocks(x.size(), blocksize, (j, from, n, worker) -> {
            float[] values = block[worker];
            Elements.load(x, from, n, values, 0);
            for (int i = 0; i < n; i++) {
                values[i] -= shift;
            }
            float constant = VectorCodec.absmax(values, n);
            constants.set(Elements.FLOAT, 4 * j, constant);
            VectorCodec.normalize(values, n, constant);
            for (int i = 0; i < n; i++) {
                bytes.set(Elements.BYTE, from + i, (byte) map.code(values[i]));
            }
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
        VectorCodec codec = codecs[w.config().type().ordinal()];
        VectorPanels panels = new VectorPanels(w, codec, x.dtype(), panelScratch);
        if (x.rows() <= VectorFewRows.MAX) {
            fewRows.matmul(x, w, codec, panels, y);
        } else {
            gemm.multiply(x, false, 1, panels.columns(), w.inFeatures(), y, false);
        }
    }

    @Override
    public void matmulBackward(Stream stream, Tensor dy, QuantizedTensor w, boolean accumulate, Tensor dx) {
        VectorCodec codec = codecs[w.config().type().ordinal()];
        VectorPanels panels = new VectorPanels(w, codec, dy.dtype(), panelScratch);
        gemm.multiply(dy, false, 1, panels.rows(), w.outFeatures(), dx, accumulate);
    }
}
