package qlora4j.lora;

import java.util.Arrays;
import jdk.incubator.vector.LongVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorSpecies;
import qlora4j.tensor.DType;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;
import qlora4j.tensor.VectorGemm;
import qlora4j.tensor.VectorMatmul;

/**
 * The layer on the cpu backend: with one adapter for all rows, and more rows than decoding has, its products are those
 * of {@link VectorLoraProducts}; the element-wise steps are in float32 over the team, whole rows at a time.
 */
final class VectorLora extends ComposedLora {
    private static final int ROWS_PER_TASK = 16;
    /** Up to so many rows products read each weight once, straight through, and are better left alone. */
    private static final int FEW_ROWS = VectorMatmul.FEW_ROWS;
    private static final VectorSpecies<Long> LONGS = VectorSpecies.of(long.class, Lanes.F.vectorShape());
    /** Counters that are computed at once. */
    private static final int COUNTERS = LONGS.length();
    private static final long LOW = 0xffffffffL;

    private final Team team;
    private final Scratch[] scratch;
    private final VectorLoraProducts products;

    /** One thread's memory, kept between calls. */
    private static final class Scratch {
        private final long[] words = new long[4 * COUNTERS];
        private float[] row = new float[0];
        private float[] mask = new float[0];

        private void grow(int cols) {
            if (row.length < cols) {
                row = new float[cols];
                mask = new float[cols];
            }
        }
    }

    VectorLora(Team team) {
        this.team = team;
        this.scratch = new Scratch[team.size()];
        Arrays.setAll(scratch, worker -> new Scratch());
        products = new VectorLoraProducts(team);
    }

    private static boolean together(Linear.Call call, Tensor x) {
        return x.rows() > FEW_ROWS && call.adapters().ofRow() == null;
    }

    /** The pair of each layer that has one and an inner activation. */
    private static LoraPair[] pairs(Linear.Call[] calls, Tensor[] u) {
        LoraPair[] pairs = new LoraPair[calls.length];
        for (int i = 0; i < pairs.length; i++) {
            pairs[i] = u[i] == null ? null : calls[i].single();
        }
        return pairs;
    }

    /** The part of each inner activation that its pair uses. */
    private static Tensor[] parts(Tensor[] u, LoraPair[] pairs) {
        Tensor[] parts = new Tensor[u.length];
        for (int i = 0; i < parts.length; i++) {
            parts[i] = pairs[i] == null ? null : part(u[i], pairs[i], 0, u[i].rows());
        }
        return parts;
    }

    @Override
    public void forward(Stream s, Linear.Call call, Tensor x, Tensor residual, Tensor y, Tensor u, Tensor dropped) {
        if (y == null || !together(call, x)) {
            super.forward(s, call, x, residual, y, u, dropped);
            return;
        }
        Linear.Call[] calls = {call};
        Tensor[] us = {u};
        LoraPair[] pairs = pairs(calls, us);
        us = parts(us, pairs);
        if (pairs[0] != null && dropped != null) {
            Matmul.nt(s, droppedInput(call, x, dropped), pairs[0].a(), 1, us[0], false);
        }
        products.forward(s, calls, pairs, x, null, residual, new Tensor[]{y}, us, dropped != null);
        if (call.bias() != null) {
            addRows(y, null, call.bias());
        }
    }

    @Override
    public void forward(Stream s, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u) {
        if (!together(calls[0], x)) {
            super.forward(s, calls, x, y, u);
            return;
        }
        LoraPair[] pairs = pairs(calls, u);
        products.forward(s, calls, pairs, x, null, null, y, parts(u, pairs), false);
        for (int i = 0; i < calls.length; i++) {
            if (calls[i].bias() != null) {
                addRows(y[i], null, calls[i].bias());
            }
        }
    }

    /**
     * Whether SwiGLU is made in passing: in float32, as in bfloat16 its conversions would be more than the compiler inlines.
     */
    private static boolean inPassing(Linear.Call call, Tensor x) {
        return together(call, x) && x.dtype() == DType.F32;
    }

    @Override
    public void forwardGated(Stream s, Linear.Call[] calls, Tensor x, Tensor[] y, Tensor[] u, boolean kept,
            Behind behind) {
        Linear.Call call = behind.call();
        Linear.Call[] one = {call};
        Tensor[] us = {behind.u()};
        LoraPair[] pairs = pairs(one, us);
        // More columns of u than few are a product of their own, which reads x again.
        boolean once = pairs[0] == null || pairs[0].rank() <= VectorGemm.FEW_COLUMNS;
        if (behind.wanted() || !once || !inPassing(call, x)) {
            super.forwardGated(s, calls, x, y, u, kept, behind);
            return;
        }
        forward(s, calls, x, y, u);
        products.forward(s, one, pairs, y[0], products.gated(behind.gating(), y[0], y[1]), behind.residual(),
                new Tensor[]{behind.y()}, parts(us, pairs), false);
        if (call.bias() != null) {
            addRows(behind.y(), null, call.bias());
        }
    }

    @Override
    public void backwardUngated(Stream s, Linear.Call call, Tensor dy, Tensor x, Tensor u, Tensor gate, Tensor up,
            Tensor du, Gating gating) {
        if (!inPassing(call, x)) {
            super.backwardUngated(s, call, dy, x, u, gate, up, du, gating);
            return;
        }
        Linear.Call[] calls = {call};
        Tensor[] dys = {dy};
        LoraPair[] pairs = pairs(calls, new Tensor[]{u});
        Tensor[] dus = parts(new Tensor[]{du}, pairs);
        products.backward(s, calls, pairs, dys, null, x, dus, true, false);
        // Before this x is dx, afterwards what the layer took forward: one sigmoid is for both, and for the gradients.
        team.run((int) Math.ceilDiv(x.size(), (long) Gating.PIECE), (task, worker) -> {
            long from = (long) task * Gating.PIECE;
            scratch[worker].grow(Gating.PIECE);
            gating.backward(x, gate, up, from, (int) Math.min(Gating.PIECE, x.size() - from), scratch[worker].row);
        });
        gradients(s, calls, pairs, dys, x, parts(new Tensor[]{u}, pairs), dus, null);
    }

    @Override
    public void backward(Stream s, Linear.Call call, Tensor dy, Tensor x, Tensor u, boolean accumulate, Tensor dx,
            Tensor du, Tensor dropped) {
        if (dx == null || !together(call, x)) {
            super.backward(s, call, dy, x, u, accumulate, dx, du, dropped);
            return;
        }
        backward(s, new Linear.Call[]{call}, new Tensor[]{dy}, x, new Tensor[]{u}, accumulate, dx, new Tensor[]{du},
                dropped);
    }

    @Override
    public void backward(Stream s, Linear.Call[] calls, Tensor[] dy, Tensor x, Tensor[] u, Tensor dx, Tensor[] du) {
        if (together(calls[0], x)) {
            backward(s, calls, dy, x, u, false, dx, du, null);
        } else {
            super.backward(s, calls, dy, x, u, dx, du);
        }
    }

    /** {@code dropped} only where there is one layer. */
    private void backward(Stream s, Linear.Call[] calls, Tensor[] dy, Tensor x, Tensor[] u, boolean accumulate,
            Tensor dx, Tensor[] du, Tensor dropped) {
        LoraPair[] pairs = pairs(calls, u);
        Tensor[] us = parts(u, pairs);
        Tensor[] dus = parts(du, pairs);
        if (dx == x) {
            products.inner(s, pairs, dy, dus);
            gradients(s, calls, pairs, dy, x, us, dus, dropped);
        }
        products.backward(s, calls, pairs, dy, accumulate ? dx : null, dx, dus, dropped == null, dx == x);
        if (dx != x) {
            gradients(s, calls, pairs, dy, x, us, dus, dropped);
        }
        if (pairs[0] != null && dropped != null) {
            Matmul.nn(s, dus[0], pairs[0].a(), 1, dropped, false);
            dropout(calls[0].adapters().dropout(), calls[0].module(), dropped, dx, true);
        }
    }

    /** Of weights one by one; of the pairs together, where they have one input. */
    private void gradients(Stream s, Linear.Call[] calls, LoraPair[] pairs, Tensor[] dy, Tensor x, Tensor[] us,
            Tensor[] dus, Tensor dropped) {
        for (int i = 0; i < calls.length; i++) {
            weightGradients(s, calls[i], dy[i], x);
        }
        if (pairs[0] != null || dropped == null) {
            products.gradients(pairs, dy, droppedInput(calls[0], x, dropped), us, dus);
        }
    }

    private interface RowTask {
        void run(int row, Scratch scratch);
    }

    private void eachRow(int rows, int cols, RowTask task) {
        team.run((rows + ROWS_PER_TASK - 1) / ROWS_PER_TASK, (block, worker) -> {
            scratch[worker].grow(cols);
            for (int i = block * ROWS_PER_TASK; i < Math.min(rows, (block + 1) * ROWS_PER_TASK); i++) {
                task.run(i, scratch[worker]);
            }
        });
    }

    @Override
    void addRows(Tensor y, Tensor residual, Tensor bias) {
        int n = y.cols();
        eachRow(y.rows(), n, (i, own) -> {
            float[] row = own.row;
            long at = (long) i * n;
            Floats.load(y, at, n, row, 0);
            if (bias != null) {
                Floats.add(bias, 0, n, row, 0);
            }
            if (residual != null) {
                Floats.add(residual, at, n, row, 0);
            }
            Floats.store(row, 0, n, y, at);
        });
    }

    @Override
    void dropout(Dropout d, int module, Tensor x, Tensor out, boolean add) {
        int n = x.cols();
        int step = (int) d.step().get(0);
        // unit(word) >= p, decided on the word's upper 24 bits alone.
        int threshold = (int) Math.ceil(d.p() * 0x1p24);
        float scale = d.scale();
        eachRow(x.rows(), n, (i, own) -> {
            float[] row = own.row;
            float[] mask = own.mask;
            long at = (long) i * n;
            mask(d, module, step, (int) d.position().get(i), (int) d.sample().get(i), threshold, scale,
                    own.words, mask, n);
            Floats.load(x, at, n, row, 0);
            for (int j = 0; j < n; j++) {
                row[j] = mask[j] == 0 ? 0 : row[j] * mask[j];
            }
            if (add) {
                Floats.add(out, at, n, row, 0);
            }
            Floats.store(row, 0, n, out, at);
        });
    }

    /**
     * The factor of each of n features: {@code scale} where kept, 0 where dropped. A lane computes one counter's four
     * words, in 64 bits so that a product's upper half is at hand.
     */
    private static void mask(Dropout d, int module, int step, int position, int sample, int threshold, float scale,
            long[] words, float[] mask, int n) {
        int groups = (n + 3) / 4;
        for (int group = 0; group < groups; group += COUNTERS) {
            LongVector c0 = LongVector.broadcast(LONGS, Integer.toUnsignedLong(Dropout.counter(group, module)))
                    .add(LongVector.zero(LONGS).addIndex(1));
            LongVector c1 = LongVector.broadcast(LONGS, Integer.toUnsignedLong(position));
            LongVector c2 = LongVector.broadcast(LONGS, Integer.toUnsignedLong(sample));
            LongVector c3 = LongVector.broadcast(LONGS, Integer.toUnsignedLong(step));
            int k0 = (int) d.seed();
            int k1 = (int) (d.seed() >>> 32);
            for (int round = 0; round < Philox.ROUNDS; round++) {
                LongVector p0 = c0.mul(Integer.toUnsignedLong(Philox.M0));
                LongVector p1 = c2.mul(Integer.toUnsignedLong(Philox.M1));
                c0 = xor(p1.lanewise(VectorOperators.LSHR, 32), c1, k0);
                c2 = xor(p0.lanewise(VectorOperators.LSHR, 32), c3, k1);
                c1 = p1.and(LOW);
                c3 = p0.and(LOW);
                k0 += Philox.W0;
                k1 += Philox.W1;
            }
            c0.intoArray(words, 0);
            c1.intoArray(words, COUNTERS);
            c2.intoArray(words, 2 * COUNTERS);
            c3.intoArray(words, 3 * COUNTERS);
            int from = 4 * group;
            int count = Math.min(4 * COUNTERS, n - from);
            for (int j = 0; j < count; j++) {
                mask[from + j] = words[j % 4 * COUNTERS + j / 4] >>> 8 >= threshold ? scale : 0;
            }
        }
    }

    private static LongVector xor(LongVector a, LongVector b, int key) {
        return a.lanewise(VectorOperators.XOR, b).lanewise(VectorOperators.XOR, Integer.toUnsignedLong(key));
    }

    @Override
    void sumRows(Tensor dy, Tensor dBias) {
        int n = dy.cols();
        int rows = dy.rows();
        float[] sum = new float[n];
        for (int i = 0; i < rows; i++) {
            Floats.add(dy, (long) i * n, n, sum, 0);
        }
        Floats.add(dBias, 0, n, sum, 0);
        Floats.store(sum, 0, n, dBias, 0);
    }
}
