package qlora4j.blockwise;

import java.lang.foreign.MemorySegment;

/** The constants of a quantized tensor in host memory, after both levels where they are nested. */
final class Scales {
    final boolean nested;
    final MemorySegment absmax;
    final MemorySegment absmax2;
    final float offset;

    Scales(QuantizedTensor w) {
        nested = w.config().nested();
        absmax = w.absmax().data();
        absmax2 = nested ? w.absmax2().data() : null;
        offset = nested ? w.offset().data().get(Elements.FLOAT, 0) : 0;
    }

    /** The constant of block {@code j}. */
    float get(long j) {
        if (!nested) {
            return absmax.get(Elements.FLOAT, 4 * j);
        }
        float value = DynamicMap.SIGNED.value(absmax.get(Elements.BYTE, j) & 0xff);
        return value * absmax2.get(Elements.FLOAT, 4 * (j / QuantConfig.NESTED_BLOCKSIZE)) + offset;
    }

    /** The constants of {@code n} blocks from {@code first} on, to {@code out[at + i * stride]}. */
    void get(long first, int n, float[] out, int at, int stride) {
        if (!nested) {
            for (int i = 0; i < n; i++) {
                out[at + i * stride] = absmax.get(Elements.FLOAT, 4 * (first + i));
            }
            return;
        }
        int done = 0;
        while (done < n) {
            long j = first + done;
            long group = j / QuantConfig.NESTED_BLOCKSIZE;
            float second = absmax2.get(Elements.FLOAT, 4 * group);
            int end = (int) Math.min(n, (group + 1) * QuantConfig.NESTED_BLOCKSIZE - first);
            for (; done < end; done++) {
                out[at + done * stride] = DynamicMap.SIGNED.value(absmax.get(Elements.BYTE, first + done) & 0xff)
                        * second + offset;
            }
        }
    }
}
