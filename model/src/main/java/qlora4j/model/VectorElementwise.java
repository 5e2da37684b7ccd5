package qlora4j.model;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import qlora4j.lora.Gating;
import qlora4j.tensor.DType;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/** SwiGLU, rotary positions and the copying of rows, in pieces of a fixed size shared by a team. */
final class VectorElementwise {
    /** Elements that are converted at a time: three arrays of them stay in the first-level cache. */
    private static final int CONVERTED = 1024;
    private static final int ROWS_PER_TASK = 16;
    /** Columns of one task of the embedding's gradient. */
    private static final int COLUMNS_PER_TASK = 64;

    private final Team team;
    private final VectorScratch scratch;

    VectorElementwise(Team team) {
        this.team = team;
        this.scratch = new VectorScratch(team, 3);
    }

    /** Whole vectors of float32 are read and written where they lie: to wait for one array after another takes longer. */
    void swiglu(Tensor gate, Tensor up, Tensor out) {
        pieces(out.size(), Gating.PIECE, (from, n, worker) -> {
            int direct = allFloats(gate, up, out) ? n / Lanes.L * Lanes.L : 0;
            swiglu(gate.data(), up.data(), out.data(), 4 * from, direct);
            for (int i = direct; i < n; i += CONVERTED) {
                swigluConverted(gate, up, out, from + i, Math.min(CONVERTED, n - i), worker);
            }
        });
    }

    private static boolean allFloats(Tensor... tensors) {
        for (Tensor t : tensors) {
            if (t.dtype() != DType.F32) {
                return false;
            }
        }
        return true;
    }

    /** {@code n} elements, whole vectors, from a byte offset on. */
    private static void swiglu(MemorySegment gate, MemorySegment up, MemorySegment out, long offset, int n) {
        for (int i = 0; i < n; i += Lanes.L) {
            long at = offset + 4L * i;
            FloatVector x = FloatVector.fromMemorySegment(Lanes.F, gate, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector u = FloatVector.fromMemorySegment(Lanes.F, up, at, ByteOrder.LITTLE_ENDIAN);
            x.mul(VectorMath.sigmoid(x)).mul(u).intoMemorySegment(out, at, ByteOrder.LITTLE_ENDIAN);
        }
    }

    private void swigluConverted(Tensor gate, Tensor up, Tensor out, long from, int n, int worker) {
        float[] g = scratch.get(worker, 0, CONVERTED);
        float[] u = scratch.get(worker, 1, CONVERTED);
        Floats.load(gate, from, n, g, 0);
        Floats.load(up, from, n, u, 0);
        silu(g, n);
        Floats.round(out.dtype(), g, 0, n);
        multiply(g, u, n);
        Floats.store(g, 0, n, out, from);
    }

    /** A piece of it, of float32; see {@link Gating}. */
    static void swiglu(Tensor gate, Tensor up, long from, int n, float[] out, int at) {
        int i = n / Lanes.L * Lanes.L;
        swiglu(gate.data(), up.data(), 4 * from, i, out, at);
        for (; i < n; i++) {
            float x = (float) gate.get(from + i);
            out[at + i] = x * VectorMath.sigmoid(x) * (float) up.get(from + i);
        }
    }

    private static void swiglu(MemorySegment gate, MemorySegment up, long offset, int n, float[] out, int to) {
        for (int i = 0; i < n; i += Lanes.L) {
            long at = offset + 4L * i;
            FloatVector x = FloatVector.fromMemorySegment(Lanes.F, gate, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector u = FloatVector.fromMemorySegment(Lanes.F, up, at, ByteOrder.LITTLE_ENDIAN);
            x.mul(VectorMath.sigmoid(x)).mul(u).intoArray(out, to + i);
        }
    }

    private static void silu(float[] g, int n) {
        int i = 0;
        for (; i <= n - Lanes.L; i += Lanes.L) {
            FloatVector x = FloatVector.fromArray(Lanes.F, g, i);
            x.mul(VectorMath.sigmoid(x)).intoArray(g, i);
        }
        for (; i < n; i++) {
            g[i] *= VectorMath.sigmoid(g[i]);
        }
    }

    private static void multiply(float[] x, float[] y, int n) {
        int i = 0;
        for (; i <= n - Lanes.L; i += Lanes.L) {
            FloatVector.fromArray(Lanes.F, x, i).mul(FloatVector.fromArray(Lanes.F, y, i)).intoArray(x, i);
        }
        for (; i < n; i++) {
            x[i] *= y[i];
        }
    }

    void swigluBackward(Tensor dOut, Tensor gate, Tensor up, Tensor dGate, Tensor dUp) {
        pieces(dOut.size(), Gating.PIECE, (from, n, worker) -> {
            int direct = allFloats(dOut, gate, up, dGate, dUp) ? n / Lanes.L * Lanes.L : 0;
            swigluGradients(dOut.data(), gate.data(), up.data(), dGate.data(), dUp.data(), 4 * from, direct);
            for (int i = direct; i < n; i += CONVERTED) {
                convertedGradients(dOut, gate, up, dGate, dUp, from + i, Math.min(CONVERTED, n - i), worker);
            }
        });
    }

    /** {@code n} elements, whole vectors, from a byte offset on. */
    private static void swigluGradients(MemorySegment dOut, MemorySegment gate, MemorySegment up, MemorySegment dGate,
            MemorySegment dUp, long offset, int n) {
        for (int i = 0; i < n; i += Lanes.L) {
            long at = offset + 4L * i;
            FloatVector d = FloatVector.fromMemorySegment(Lanes.F, dOut, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector g = FloatVector.fromMemorySegment(Lanes.F, gate, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector u = FloatVector.fromMemorySegment(Lanes.F, up, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector sigma = VectorMath.sigmoid(g);
            FloatVector slope = g.mul(sigma.neg().add(1f)).add(1f);
            d.mul(u).mul(sigma).mul(slope).intoMemorySegment(dGate, at, ByteOrder.LITTLE_ENDIAN);
            d.mul(g).mul(sigma).intoMemorySegment(dUp, at, ByteOrder.LITTLE_ENDIAN);
        }
    }

    private void convertedGradients(Tensor dOut, Tensor gate, Tensor up, Tensor dGate, Tensor dUp, long from, int n,
            int worker) {
        float[] d = scratch.get(worker, 0, CONVERTED);
        float[] g = scratch.get(worker, 1, CONVERTED);
        float[] u = scratch.get(worker, 2, CONVERTED);
        Floats.load(dOut, from, n, d, 0);
        Floats.load(gate, from, n, g, 0);
        Floats.load(up, from, n, u, 0);
        swigluGradients(d, g, u, n);
        Floats.store(g, 0, n, dGate, from);
        Floats.store(u, 0, n, dUp, from);
    }

    /**
     * A piece of it, of float32 and in place, and {@code dOut} becomes SwiGLU itself; see {@link Gating}. The
     * sigmoids are a loop of their own, since in one loop they and what is read and written are together more than the
     * compiler always inlines, and what it does not makes its vectors on the heap.
     */
    static void swigluGradients(Tensor dOut, Tensor gate, Tensor up, long from, int n, float[] sigmas) {
        int i = n / Lanes.L * Lanes.L;
        sigmoids(gate.data(), 4 * from, i, sigmas);
        swigluGradients(dOut.data(), gate.data(), up.data(), 4 * from, i, sigmas);
        for (long at = from + i; at < from + n; at++) {
            float d = (float) dOut.get(at);
            float g = (float) gate.get(at);
            float u = (float) up.get(at);
            float sigma = VectorMath.sigmoid(g);
            dOut.set(at, g * sigma * u);
            gate.set(at, d * u * sigma * (g * (-sigma + 1f) + 1f));
            up.set(at, d * g * sigma);
        }
    }

    private static void sigmoids(MemorySegment x, long offset, int n, float[] out) {
        for (int i = 0; i < n; i += Lanes.L) {
            VectorMath.sigmoid(FloatVector.fromMemorySegment(Lanes.F, x, offset + 4L * i, ByteOrder.LITTLE_ENDIAN))
                    .intoArray(out, i);
        }
    }

    private static void swigluGradients(MemorySegment dOut, MemorySegment gate, MemorySegment up, long offset, int n,
            float[] sigmas) {
        for (int i = 0; i < n; i += Lanes.L) {
            long at = offset + 4L * i;
            FloatVector d = FloatVector.fromMemorySegment(Lanes.F, dOut, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector g = FloatVector.fromMemorySegment(Lanes.F, gate, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector u = FloatVector.fromMemorySegment(Lanes.F, up, at, ByteOrder.LITTLE_ENDIAN);
            FloatVector sigma = FloatVector.fromArray(Lanes.F, sigmas, i);
            FloatVector slope = g.mul(sigma.neg().add(1f)).add(1f);
            g.mul(sigma).mul(u).intoMemorySegment(dOut, at, ByteOrder.LITTLE_ENDIAN);
            d.mul(u).mul(sigma).mul(slope).intoMemorySegment(gate, at, ByteOrder.LITTLE_ENDIAN);
            d.mul(g).mul(sigma).intoMemorySegment(up, at, ByteOrder.LITTLE_ENDIAN);
        }
    }

    /** Replaces gates and ups by their gradients. */
    private static void swigluGradients(float[] d, float[] g, float[] u, int n) {
        int i = 0;
        for (; i <= n - Lanes.L; i += Lanes.L) {
            FloatVector dv = FloatVector.fromArray(Lanes.F, d, i);
            FloatVector gv = FloatVector.fromArray(Lanes.F, g, i);
            FloatVector sigma = VectorMath.sigmoid(gv);
            FloatVector slope = gv.mul(sigma.neg().add(1f)).add(1f);
            dv.mul(FloatVector.fromArray(Lanes.F, u, i)).mul(sigma).mul(slope).intoArray(g, i);
            dv.mul(gv).mul(sigma).intoArray(u, i);
        }
        for (; i < n; i++) {
            float sigma = VectorMath.sigmoid(g[i]);
            float dGate = d[i] * u[i] * sigma * (g[i] * (-sigma + 1f) + 1f);
            u[i] = d[i] * g[i] * sigma;
            g[i] = dGate;
        }
    }

    void rope(Tensor q, Tensor k, Tensor positions, Tensor table, int headDim, boolean inverse) {
        int rows = Math.toIntExact(positions.size());
        pieces(rows, ROWS_PER_TASK, (from, n, worker) -> {
            float[] angles = scratch.get(worker, 0, headDim);
            float[] row = scratch.get(worker, 1, Math.max(q.cols(), k.cols()));
            for (int i = (int) from; i < from + n; i++) {
                int position = ScalarDecoder.position(positions, i, table);
                Floats.load(table, (long) position * headDim, headDim, angles, 0);
                if (inverse) {
                    VectorTile.scale(angles, headDim / 2, headDim / 2, -1f);
                }
                rotateRow(q, i, row, angles, headDim);
                rotateRow(k, i, row, angles, headDim);
            }
        });
    }

    private static void rotateRow(Tensor t, int i, float[] row, float[] angles, int headDim) {
        int n = t.cols();
        Floats.load(t, (long) i * n, n, row, 0);
        for (int at = 0; at < n; at += headDim) {
            rotate(row, at, angles, headDim / 2);
        }
        Floats.store(row, 0, n, t, (long) i * n);
    }

    /** Rotates the pairs (j, j + half) of one head by the angles whose cosines, then sines are given. */
    private static void rotate(float[] x, int at, float[] angles, int half) {
        int j = 0;
        for (; j <= half - Lanes.L; j += Lanes.L) {
            FloatVector cos = FloatVector.fromArray(Lanes.F, angles, j);
            FloatVector sin = FloatVector.fromArray(Lanes.F, angles, half + j);
            FloatVector a = FloatVector.fromArray(Lanes.F, x, at + j);
            FloatVector b = FloatVector.fromArray(Lanes.F, x, at + half + j);
            a.mul(cos).sub(b.mul(sin)).intoArray(x, at + j);
            b.mul(cos).add(a.mul(sin)).intoArray(x, at + half + j);
        }
        for (; j < half; j++) {
            float a = x[at + j];
            float b = x[at + half + j];
            x[at + j] = a * angles[j] - b * angles[half + j];
            x[at + half + j] = b * angles[j] + a * angles[half + j];
        }
    }

    void embedding(Tensor tokens, Tensor table, Tensor out) {
        pieces(tokens.size(), ROWS_PER_TASK, (from, n, worker) -> {
            for (int i = (int) from; i < from + n; i++) {
                copyRow(table, ScalarDecoder.token(tokens, i, table), out, i, worker);
            }
        });
    }

    void embeddingBackward(Tensor tokens, Tensor dOut, Tensor dTable) {
        int cols = dTable.cols();
        pieces(cols, COLUMNS_PER_TASK, (from, n, worker) -> {
            float[] sum = scratch.get(worker, 0, COLUMNS_PER_TASK);
            for (int i = 0; i < tokens.size(); i++) {
                long to = (long) ScalarDecoder.token(tokens, i, dTable) * cols + from;
                Floats.load(dOut, (long) i * cols + from, n, sum, 0);
                Floats.add(dTable, to, n, sum, 0);
                Floats.store(sum, 0, n, dTable, to);
            }
        });
    }

    void gatherRows(Tensor x, Tensor index, Tensor out) {
        pieces(index.size(), ROWS_PER_TASK, (from, n, worker) -> {
            for (int i = (int) from; i < from + n; i++) {
                copyRow(x, ScalarDecoder.integer(index, i), out, i, worker);
            }
        });
    }

    void appendToCache(Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache, Tensor vCache) {
        team.run(Math.toIntExact(kvStart.size()), (seq, worker) -> {
            int from = ScalarDecoder.integer(cuQ, seq);
            int n = ScalarDecoder.integer(cuQ, seq + 1) - from;
            int to = ScalarDecoder.integer(kvStart, seq) + ScalarDecoder.integer(kvLen, seq) - n;
            for (int i = 0; i < n; i++) {
                copyRow(k, from + i, kCache, to + i, worker);
                copyRow(v, from + i, vCache, to + i, worker);
            }
        });
    }

    private void copyRow(Tensor from, long row, Tensor to, long toRow, int worker) {
        int n = from.cols();
        DType type = from.dtype();
        if (type == to.dtype()) {
            long bytes = type.bytes(n);
            to.data().asSlice(toRow * bytes, bytes).copyFrom(from.data().asSlice(row * bytes, bytes));
            return;
        }
        float[] x = scratch.get(worker, 0, n);
        Floats.load(from, row * n, n, x, 0);
        Floats.store(x, 0, n, to, toRow * n);
    }

    /** Work on elements {@code from} to {@code from + n}. */
    private interface Piece {
        void run(long from, int n, int worker);
    }

    private void pieces(long size, int piece, Piece body) {
        team.run(Math.toIntExact((size + piece - 1) / piece), (task, worker) -> {
            long from = (long) task * piece;
            body.run(from, (int) Math.min(piece, size - from), worker);
        });
    }
}
