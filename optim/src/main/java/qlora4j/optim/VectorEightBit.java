package qlora4j.optim;

import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import qlora4j.blockwise.DynamicMap;
import qlora4j.tensor.DType;
import qlora4j.tensor.Floats;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/** {@link ScalarEightBit} over the team, a block's arithmetic in vectors; the same bits. */
final class VectorEightBit implements EightBitKernels {
    private static final int BLOCKS_PER_TASK = 64;

    private final Team team;
    private final Scratch[] scratch;
    private final float[] signed = DynamicMap.SIGNED.table();
    private final float[] unsigned = DynamicMap.UNSIGNED.table();

    /** One worker's block. What stands behind the end of a short block is zero. */
    private static final class Scratch {
        private final float[] g = new float[BLOCK];
        private final float[] p = new float[BLOCK];
        private final float[] m = new float[BLOCK];
        private final float[] v = new float[BLOCK];
    }

    VectorEightBit(Team team) {
        this.team = team;
        this.scratch = new Scratch[team.size()];
        Arrays.setAll(scratch, worker -> new Scratch());
    }

    @Override
    public void adamW8(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor codes1, Tensor codes2,
            Tensor absmax1, Tensor absmax2, Tensor scalars) {
        AdamConstants c = AdamConstants.of(hyper, scalars, DType.F32);
        long n = params.size();
        int blocks = Math.toIntExact(absmax1.size());
        team.run((blocks + BLOCKS_PER_TASK - 1) / BLOCKS_PER_TASK, (task, worker) -> {
            for (int b = task * BLOCKS_PER_TASK; b < Math.min(blocks, (task + 1) * BLOCKS_PER_TASK); b++) {
                block(c, scratch[worker], (long) b * BLOCK, (int) Math.min(BLOCK, n - (long) b * BLOCK), b, params,
                        grads, codes1, codes2, absmax1, absmax2);
            }
        });
    }

    private void block(AdamConstants c, Scratch s, long at, int size, int block, Tensor params, Tensor grads,
            Tensor codes1, Tensor codes2, Tensor absmax1, Tensor absmax2) {
        float max1 = (float) absmax1.get(block);
        float max2 = (float) absmax2.get(block);
        if (size < BLOCK) {
            Arrays.fill(s.g, 0);
            Arrays.fill(s.p, 0);
            Arrays.fill(s.m, 0);
            Arrays.fill(s.v, 0);
        }
        Floats.load(grads, at, size, s.g, 0);
        Floats.load(params, at, size, s.p, 0);
        for (int i = 0; i < size; i++) {
            s.m[i] = signed[codes1.data().get(ValueLayout.JAVA_BYTE, at + i) & 0xff] * max1;
            s.v[i] = unsigned[codes2.data().get(ValueLayout.JAVA_BYTE, at + i) & 0xff] * max2;
        }
        update(c, s);
        Floats.store(s.p, 0, size, params, at);
        max1 = 0;
        max2 = 0;
        for (int i = 0; i < size; i++) {
            max1 = Math.max(max1, Math.abs(s.m[i]));
            max2 = Math.max(max2, s.v[i]);
        }
        absmax1.set(block, max1);
        absmax2.set(block, max2);
        for (int i = 0; i < size; i++) {
            codes1.data().set(ValueLayout.JAVA_BYTE, at + i, (byte) ScalarEightBit.firstCode(s.m[i], max1));
            codes2.data().set(ValueLayout.JAVA_BYTE, at + i, (byte) ScalarEightBit.secondCode(s.v[i], max2));
        }
    }

    private static void update(AdamConstants c, Scratch s) {
        FloatVector zero = FloatVector.zero(Lanes.F);
        for (int i = 0; i < BLOCK; i += Lanes.L) {
            FloatVector g = FloatVector.fromArray(Lanes.F, s.g, i);
            VectorMask<Float> finite = g.test(VectorOperators.IS_FINITE);
            g = g.mul((float) c.gradScale());
            FloatVector m = FloatVector.fromArray(Lanes.F, s.m, i).mul((float) c.beta1())
                    .add(g.mul((float) c.oneMinusBeta1()));
            FloatVector v = FloatVector.fromArray(Lanes.F, s.v, i).mul((float) c.beta2())
                    .add(g.mul((float) c.oneMinusBeta2()).mul(g));
            m = zero.blend(m, finite);
            v = zero.blend(v, finite);
            FloatVector p = FloatVector.fromArray(Lanes.F, s.p, i);
            FloatVector moved = p.add(m.div(v.sqrt().add((float) c.epsilon())).mul((float) c.stepSize()))
                    .mul((float) c.decay());
            p.blend(moved, finite).intoArray(s.p, i);
            m.intoArray(s.m, i);
            v.intoArray(s.v, i);
        }
    }
}
