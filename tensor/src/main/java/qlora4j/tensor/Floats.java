package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;

/**
 * Moves runs of elements between a tensor and a float array, converting the type: how the vector kernels read and write
 * activations of any computing type while computing in float32.
 */
public final class Floats {
    private static final ValueLayout.OfShort SHORT = ValueLayout.JAVA_SHORT_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);

    private Floats() {
    }

    /** Whether the vector kernels compute with this type: float32, bfloat16 and float16. */
    public static boolean supports(DType type) {
        return type == DType.F32 || type == DType.BF16 || type == DType.F16;
    }

    /** Reads {@code n} elements from element {@code from} of {@code t} into {@code out[at …]}. */
    public static void load(Tensor t, long from, int n, float[] out, int at) {
        MemorySegment d = t.data();
        switch (t.dtype()) {
            case F32 -> Lanes.load(d, from * 4, n, out, at);
            case BF16 -> VectorBf16.load(d, from * 2, n, out, at);
            case F16 -> {
                for (int i = 0; i < n; i++) {
                    out[at + i] = Float.float16ToFloat(d.get(SHORT, (from + i) * 2));
                }
            }
            default -> throw unsupported(t);
        }
    }

    /** Adds {@code n} elements from element {@code from} of {@code t} to {@code sum[at …]}. */
    public static void add(Tensor t, long from, int n, float[] sum, int at) {
        MemorySegment d = t.data();
        switch (t.dtype()) {
            case F32 -> Lanes.add(d, from * 4, n, sum, at);
            case BF16 -> VectorBf16.add(d, from * 2, n, sum, at);
            default -> {
                for (int i = 0; i < n; i++) {
                    sum[at + i] += (float) t.get(from + i);
                }
            }
        }
    }

    /** Writes {@code n} floats {@code in[at …]} to {@code t} from element {@code from}, rounded to its type. */
    public static void store(float[] in, int at, int n, Tensor t, long from) {
        MemorySegment d = t.data();
        switch (t.dtype()) {
            case F32 -> Lanes.store(in, at, n, d, from * 4);
            case BF16 -> VectorBf16.store(in, at, n, d, from * 2);
            case F16 -> {
                for (int i = 0; i < n; i++) {
                    d.set(SHORT, (from + i) * 2, Float.floatToFloat16(in[at + i]));
                }
            }
            default -> throw unsupported(t);
        }
    }

    /** Rounds {@code n} floats {@code x[at …]} to values of a type, in place; float32 is left as it is. */
    public static void round(DType type, float[] x, int at, int n) {
        if (type == DType.BF16) {
            VectorBf16.round(x, at, n);
        } else if (type == DType.F16) {
            for (int i = at; i < at + n; i++) {
                x[i] = Float.float16ToFloat(Float.floatToFloat16(x[i]));
            }
        }
    }

    /** Adds {@code n} floats {@code in[at …]}, which are overwritten, to {@code t} from element {@code from}. */
    static void addTo(float[] in, int at, int n, Tensor t, long from) {
        if (t.dtype() == DType.F32) {
            Lanes.addTo(in, at, n, t.data(), from * 4);
        } else {
            add(t, from, n, in, at);
            store(in, at, n, t, from);
        }
    }

    private static IllegalArgumentException unsupported(Tensor t) {
        return new IllegalArgumentException(t + ": the cpu backend computes with float32, bfloat16 and float16;"
                + " float64 runs on --backend scalar");
    }
}
