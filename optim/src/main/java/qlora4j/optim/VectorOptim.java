package qlora4j.optim;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import java.util.concurrent.atomic.AtomicLong;
import jdk.incubator.vector.DoubleVector;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;
import qlora4j.tensor.DType;
import qlora4j.tensor.Lanes;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;

/**
 * The Vector API twin of {@link ScalarOptim} for float32, bit-identical to it. What is left over by whole
 * vectors, and float64 buffers (finite differences), go through the reference itself.
 */
final class VectorOptim extends ScalarOptim {
    private static final ByteOrder LITTLE = ByteOrder.LITTLE_ENDIAN;
    /** Elements of one task: a few hundred kilobytes over the four buffers. */
    private static final int TASK = 16 * CHUNK;
    /** As many float64 lanes as fit the chosen width, and the float32 species of as many lanes. */
    private static final VectorSpecies<Double> D = VectorSpecies.of(double.class, Lanes.F.vectorShape());
    private static final VectorSpecies<Float> HALF = VectorSpecies.of(float.class,
            VectorShape.forBitSize(Lanes.BITS / 2));

    private final Team team;
    private final double[][] partials;

    VectorOptim(Team team) {
        this.team = team;
        this.partials = new double[team.size()][PARTIALS];
    }

    @Override
    public void adamW(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor expAvg, Tensor expAvgSq,
            Tensor scalars) {
        if (params.dtype() != DType.F32) {
            super.adamW(stream, hyper, params, grads, expAvg, expAvgSq, scalars);
            return;
        }
        AdamConstants c = AdamConstants.of(hyper, scalars, DType.F32);
        boolean torch = hyper.formula() == AdamHyper.Formula.TORCH;
        long n = params.size();
        eachChunk(n, (from, count, worker) -> {
            int vectors = Lanes.F.loopBound(count);
            if (torch) {
                torch(c, params.data(), grads.data(), expAvg.data(), expAvgSq.data(), 4 * from, vectors);
            } else {
                bitsandbytes(c, params.data(), grads.data(), expAvg.data(), expAvgSq.data(), 4 * from, vectors);
            }
            adamW(hyper.formula(), c, from + vectors, from + count, params, grads, expAvg, expAvgSq);
        });
    }

    /** Work on elements {@code from .. from + count} of a chunk. */
    private interface ChunkTask {
        void run(long from, int count, int worker);
    }

    /**
     * A chunk a call, counted in int: the compiler sees such a method often, soon. A loop over a whole task with a long
     * index it compiled again in every step, because the bounds check that it moves out of it failed at the end.
     */
    private void eachChunk(long n, ChunkTask body) {
        team.run(tasks(n), (task, worker) -> {
            long last = Math.min(n, (task + 1L) * TASK);
            for (long from = (long) task * TASK; from < last; from += CHUNK) {
                body.run(from, (int) Math.min(CHUNK, last - from), worker);
            }
        });
    }

    private static int tasks(long n) {
        return Math.toIntExact(Math.ceilDiv(n, TASK));
    }

    private static void torch(AdamConstants c, MemorySegment params, MemorySegment grads, MemorySegment expAvg,
            MemorySegment expAvgSq, long at, int n) {
        float scale = (float) c.gradScale();
        float decay = (float) c.decay();
        float weight1 = (float) c.oneMinusBeta1();
        float beta2 = (float) c.beta2();
        float weight2 = (float) c.oneMinusBeta2();
        float correction2 = (float) c.correction2();
        float epsilon = (float) c.epsilon();
        float stepSize = (float) c.stepSize();
        for (int i = 0; i < n; i += Lanes.L) {
            long o = at + 4L * i;
            FloatVector g = FloatVector.fromMemorySegment(Lanes.F, grads, o, LITTLE).mul(scale);
            FloatVector p = FloatVector.fromMemorySegment(Lanes.F, params, o, LITTLE).mul(decay);
            FloatVector m = FloatVector.fromMemorySegment(Lanes.F, expAvg, o, LITTLE);
            FloatVector v = FloatVector.fromMemorySegment(Lanes.F, expAvgSq, o, LITTLE);
            m = m.add(g.sub(m).mul(weight1));
            v = v.mul(beta2).add(g.mul(g).mul(weight2));
            FloatVector denominator = v.sqrt().div(correction2).add(epsilon);
            p = p.add(m.div(denominator).mul(stepSize));
            p.intoMemorySegment(params, o, LITTLE);
            m.intoMemorySegment(expAvg, o, LITTLE);
            v.intoMemorySegment(expAvgSq, o, LITTLE);
        }
    }

    private static void bitsandbytes(AdamConstants c, MemorySegment params, MemorySegment grads, MemorySegment expAvg,
            MemorySegment expAvgSq, long at, int n) {
        float scale = (float) c.gradScale();
        float beta1 = (float) c.beta1();
        float weight1 = (float) c.oneMinusBeta1();
        float beta2 = (float) c.beta2();
        float weight2 = (float) c.oneMinusBeta2();
        float epsilon = (float) c.epsilon();
        float stepSize = (float) c.stepSize();
        float decay = (float) c.decay();
        for (int i = 0; i < n; i += Lanes.L) {
            long o = at + 4L * i;
            FloatVector g = FloatVector.fromMemorySegment(Lanes.F, grads, o, LITTLE).mul(scale);
            FloatVector p = FloatVector.fromMemorySegment(Lanes.F, params, o, LITTLE);
            FloatVector m = FloatVector.fromMemorySegment(Lanes.F, expAvg, o, LITTLE);
            FloatVector v = FloatVector.fromMemorySegment(Lanes.F, expAvgSq, o, LITTLE);
            m = m.mul(beta1).add(g.mul(weight1));
            v = v.mul(beta2).add(g.mul(weight2).mul(g));
            p = p.add(m.div(v.sqrt().add(epsilon)).mul(stepSize)).mul(decay);
            p.intoMemorySegment(params, o, LITTLE);
            m.intoMemorySegment(expAvg, o, LITTLE);
            v.intoMemorySegment(expAvgSq, o, LITTLE);
        }
    }

    @Override
    public void sumOfSquares(Stream stream, Tensor x, Tensor chunkSums, Tensor scalars) {
        if (x.dtype() != DType.F32) {
            super.sumOfSquares(stream, x, chunkSums, scalars);
            return;
        }
        long n = x.size();
        eachChunk(n, (from, count, worker) -> chunkSums.set(from / CHUNK, count == CHUNK
                ? sumWholeChunk(x.data(), 4 * from, partials[worker])
                : sumChunk(x, from / CHUNK, partials[worker])));
        addChunks(chunkSums, scalars);
    }

    /** Each pass adds up as many of the partial sums as there are lanes. */
    private static double sumWholeChunk(MemorySegment x, long at, double[] partial) {
        for (int first = 0; first < PARTIALS; first += D.length()) {
            DoubleVector sum = DoubleVector.zero(D);
            for (int i = first; i < CHUNK; i += PARTIALS) {
                FloatVector f = FloatVector.fromMemorySegment(HALF, x, at + 4L * i, LITTLE);
                DoubleVector d = (DoubleVector) f.convertShape(VectorOperators.F2D, D, 0);
                sum = sum.add(d.mul(d));
            }
            sum.intoArray(partial, first);
        }
        return addPartials(partial);
    }

    @Override
    public void nonFinite(Stream stream, Tensor x, Tensor count) {
        if (x.dtype() != DType.F32) {
            super.nonFinite(stream, x, count);
            return;
        }
        long n = x.size();
        AtomicLong bad = new AtomicLong();
        eachChunk(n, (from, size, worker) -> {
            int vectors = Lanes.F.loopBound(size);
            long found = vectors - finite(x.data(), 4 * from, vectors) + nonFinite(x, from + vectors, from + size);
            if (found != 0) {
                bad.addAndGet(found);
            }
        });
        count.set(0, bad.get());
    }

    /** How many of n elements are finite. */
    private static int finite(MemorySegment x, long at, int n) {
        int finite = 0;
        for (int i = 0; i < n; i += Lanes.L) {
            finite += FloatVector.fromMemorySegment(Lanes.F, x, at + 4L * i, LITTLE).test(VectorOperators.IS_FINITE)
                    .trueCount();
        }
        return finite;
    }
}
