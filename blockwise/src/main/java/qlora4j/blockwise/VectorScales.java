package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.ByteVector;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;
import qlora4j.tensor.Lanes;

/** The constants of consecutive blocks, those of {@link Scales} bit for bit, a vector at a time. */
final class VectorScales {
    private static final int L = Lanes.L;
    private static final float[] SIGNED = DynamicMap.SIGNED.table();
    /** As many bytes as a vector has lanes; there is no vector of four. */
    private static final VectorSpecies<Byte> BYTES = L == 4
            ? null
            : VectorSpecies.of(byte.class, VectorShape.forBitSize(L * Byte.SIZE));

    private VectorScales() {
    }

    /**
     * The constants of {@code n} blocks from {@code first} on, to {@code out[at ...]}.
     *
     * @param codes scratch of L ints
     */
    static void get(Scales scales, long first, int n, float[] out, int at, int[] codes) {
        if (!scales.nested) {
            MemorySegment.copy(scales.absmax, Elements.FLOAT, 4 * first, out, at, n);
            return;
        }
        int done = 0;
        while (done < n) {
            long group = (first + done) / QuantConfig.NESTED_BLOCKSIZE;
            float second = scales.absmax2.get(Elements.FLOAT, 4 * group);
            int end = (int) Math.min(n, (group + 1) * QuantConfig.NESTED_BLOCKSIZE - first);
            nested(scales.absmax, first + done, end - done, second, scales.offset, out, at + done, codes);
            done = end;
        }
    }

    /** Of {@code n} blocks that share a constant of the second level. */
    private static void nested(MemorySegment absmax, long first, int n, float second, float offset, float[] out, int at,
            int[] codes) {
        int i = 0;
        for (; L > 4 && i <= n - L; i += L) {
            ByteVector bytes = ByteVector.fromMemorySegment(BYTES, absmax, first + i, ByteOrder.LITTLE_ENDIAN);
            ((IntVector) bytes.convertShape(VectorOperators.ZERO_EXTEND_B2I, Lanes.I, 0)).intoArray(codes, 0);
            FloatVector.fromArray(Lanes.F, SIGNED, 0, codes, 0).mul(second).add(offset).intoArray(out, at + i);
        }
        for (; i < n; i++) {
            out[at + i] = SIGNED[absmax.get(Elements.BYTE, first + i) & 0xff] * second + offset;
        }
    }
}
