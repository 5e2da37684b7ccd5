package qlora4j.bench;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorSpecies;
import qlora4j.tensor.Lanes;

/** Loops that do one thing as fast as a core can: fused multiply-adds in registers, and reading memory. */
final class VectorProbe {
    private static final VectorSpecies<Float> F = Lanes.F;
    private static final ByteOrder ORDER = ByteOrder.LITTLE_ENDIAN;
    /** Independent sums: enough to hide four cycles of latency at two fused operations a cycle, within 16 registers. */
    private static final int SUMS = 12;

    private VectorProbe() {
    }

    /** Operations of one {@link #multiplyAdd} round. */
    static double operations(int rounds) {
        return 2.0 * SUMS * Lanes.L * rounds;
    }

    /** {@code rounds} rounds of fused multiply-adds; the result only keeps them from being left out. */
    static float multiplyAdd(int rounds, float seed) {
        FloatVector x = FloatVector.broadcast(F, seed);
        FloatVector y = FloatVector.broadcast(F, 1e-9f);
        FloatVector a = x;
        FloatVector b = x.add(1);
        FloatVector c = x.add(2);
        FloatVector d = x.add(3);
        FloatVector e = x.add(4);
        FloatVector f = x.add(5);
        FloatVector g = x.add(6);
        FloatVector h = x.add(7);
        FloatVector i = x.add(8);
        FloatVector j = x.add(9);
        FloatVector k = x.add(10);
        FloatVector l = x.add(11);
        for (int round = 0; round < rounds; round++) {
            a = a.fma(x, y);
            b = b.fma(x, y);
            c = c.fma(x, y);
            d = d.fma(x, y);
            e = e.fma(x, y);
            f = f.fma(x, y);
            g = g.fma(x, y);
            h = h.fma(x, y);
            i = i.fma(x, y);
            j = j.fma(x, y);
            k = k.fma(x, y);
            l = l.fma(x, y);
        }
        return Lanes.sum(a.add(b).add(c.add(d)).add(e.add(f).add(g.add(h))).add(i.add(j).add(k.add(l))));
    }

    /** The sum of all floats of a segment, whose size is a multiple of eight vectors. */
    static float read(MemorySegment data) {
        FloatVector a = FloatVector.zero(F);
        FloatVector b = a;
        FloatVector c = a;
        FloatVector d = a;
        int step = Lanes.BITS / 8;
        for (long at = 0; at < data.byteSize(); at += 4L * step) {
            a = a.add(FloatVector.fromMemorySegment(F, data, at, ORDER));
            b = b.add(FloatVector.fromMemorySegment(F, data, at + step, ORDER));
            c = c.add(FloatVector.fromMemorySegment(F, data, at + 2L * step, ORDER));
            d = d.add(FloatVector.fromMemorySegment(F, data, at + 3L * step, ORDER));
        }
        return Lanes.sum(a.add(b).add(c.add(d)));
    }
}
