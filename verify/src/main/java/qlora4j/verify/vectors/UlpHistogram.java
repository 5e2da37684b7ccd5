package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.Map;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * How far two tensors of one type and size are apart, element by element, in units in the last place of their type:
 * floating-point numbers by the distance of their bits in the order of the numbers, integers by their difference.
 *
 * @param first the flat index of the first element that differs; -1 for none
 * @param differing how many elements differ
 * @param counts elements by distance: 0, 1, 2, up to 4, 16, 256, 65536, more, and NaN on one side
 */
record UlpHistogram(long first, long differing, Map<String, Long> counts) {
    private static final long[] BOUNDS = {0, 1, 2, 4, 16, 256, 65536};
    private static final String MORE = "more";
    private static final String NAN = "NaN";

    static UlpHistogram of(Tensor theirs, Tensor ours) {
        Map<String, Long> counts = new LinkedHashMap<>();
        long first = -1;
        long differing = 0;
        for (long i = 0; i < ours.size(); i++) {
            long distance = distance(theirs, ours, i);
            if (distance != 0) {
                differing++;
                first = first < 0 ? i : first;
            }
            counts.merge(bucket(distance), 1L, Long::sum);
        }
        return new UlpHistogram(first, differing, counts);
    }

    private static String bucket(long distance) {
        if (distance < 0) {
            return NAN;
        }
        for (long bound : BOUNDS) {
            if (distance <= bound) {
                return bound <= 2 ? Long.toString(bound) : "<=" + bound;
            }
        }
        return MORE;
    }

    /** The distance; -1 where one of the two alone is a NaN. */
    private static long distance(Tensor theirs, Tensor ours, long i) {
        double a = theirs.get(i);
        double b = ours.get(i);
        if (Double.isNaN(a) || Double.isNaN(b)) {
            return Double.isNaN(a) && Double.isNaN(b) ? 0 : -1;
        }
        DType type = ours.dtype();
        return Math.abs(ordered(type, a) - ordered(type, b));
    }

    /** The number's place in the order of all numbers of its type; -0 comes right before +0. */
    private static long ordered(DType type, double x) {
        return switch (type) {
            case F32 -> ordered(Float.floatToRawIntBits((float) x), Integer.SIZE);
            case BF16 -> ordered(DType.floatToBf16((float) x), Short.SIZE);
            case F16 -> ordered(Float.floatToFloat16((float) x), Short.SIZE);
            case F64 -> ordered(Double.doubleToRawLongBits(x), Long.SIZE);
            default -> (long) x;
        };
    }

    private static long ordered(long bits, int width) {
        return bits >= 0 ? bits : (-1L << width - 1) - bits - 1;
    }
}
