package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.Map;
import qlora4j.blockwise.DynamicMap;
import qlora4j.blockwise.QuantConfig;
import qlora4j.nf4.Codebook;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Sections 3 and 4 of the specification in one plain class that shares no code with the kernels, with a place for each
 * {@link Fault} that can be made in them.
 */
final class PlainQuantizer {
    /** Bins of bitsandbytes' 8-bit quantizer on the CPU, less one: a number goes to the nearest of them. */
    private static final int BINS = 65535;
    private static final int MEAN_CHUNK = 256;
    /** What bitsandbytes' CPU code clamps constants to. */
    private static final float SMALLEST_CLAMPED = 1e-38f;

    private final Codebook codebook;
    private final int blocksize;
    private final Fault fault;
    private final Float given;

    PlainQuantizer(Codebook codebook, int blocksize, Fault fault) {
        this(codebook, blocksize, fault, null);
    }

    /** @param offset put in for the mean of the constants; null to compute it */
    PlainQuantizer(Codebook codebook, int blocksize, Fault fault, Float offset) {
        this.codebook = codebook;
        this.blocksize = blocksize;
        this.fault = fault;
        this.given = offset;
    }

    /** Quantizes x; the outputs of {@link QuantizeOperation}. */
    Map<String, Tensor> run(Tensor x) {
        int n = Math.toIntExact(x.size());
        float[] values = new float[n];
        for (int i = 0; i < n; i++) {
            values[i] = (float) x.get(i);
        }
        int[] blockOf = blocks(n, x.cols());
        float[] absmax = absmax(values, blockOf);
        int[] codes = new int[n];
        for (int i = 0; i < n; i++) {
            float normalized = normalize(values[i], absmax[blockOf[i]]);
            codes[i] = fault == Fault.ZERO_BLOCK_CODE_0 && absmax[blockOf[i]] == 0 ? 0 : code4(normalized);
        }
        Map<String, Tensor> out = new LinkedHashMap<>();
        out.put("absmax", Tensor.of(absmax, absmax.length));
        out.put("packed", pack(codes));
        out.put("dequant", dequantize(codes, absmax, blockOf, x));
        float offset = given != null ? given : mean(absmax);
        float[] rest = new float[absmax.length];
        int[] groupOf = new int[absmax.length];
        for (int j = 0; j < rest.length; j++) {
            rest[j] = fault == Fault.OFFSET_NOT_SUBTRACTED ? absmax[j] : absmax[j] - offset;
            groupOf[j] = j / QuantConfig.NESTED_BLOCKSIZE;
        }
        float[] absmax2 = absmax(rest, groupOf);
        Tensor codes8 = Tensor.zeros(DType.U8, rest.length);
        float[] scales = new float[rest.length];
        for (int j = 0; j < rest.length; j++) {
            int code = code8(normalize(rest[j], absmax2[groupOf[j]]));
            codes8.set(j, code);
            float product = DynamicMap.SIGNED.value(code) * absmax2[groupOf[j]];
            scales[j] = fault == Fault.OFFSET_NOT_ADDED ? product : product + offset;
        }
        out.put("offset", Tensor.of(new float[]{offset}, 1));
        out.put("nested.absmax2", Tensor.of(absmax2, absmax2.length));
        out.put("nested.absmax", codes8);
        out.put("nested.scales", Tensor.of(scales, scales.length));
        out.put("nested.dequant", dequantize(codes, scales, blockOf, x));
        return out;
    }

    /** The block of each element. */
    private int[] blocks(int n, int columns) {
        int[] of = new int[n];
        int perRow = Math.ceilDiv(columns, blocksize);
        for (int i = 0; i < n; i++) {
            of[i] = fault == Fault.BLOCKS_RESTART_AT_ROWS ? i / columns * perRow + i % columns / blocksize
                    : i / blocksize;
        }
        return of;
    }

    private static float[] absmax(float[] values, int[] blockOf) {
        float[] absmax = new float[values.length == 0 ? 0 : blockOf[values.length - 1] + 1];
        for (int i = 0; i < values.length; i++) {
            absmax[blockOf[i]] = Math.max(absmax[blockOf[i]], Math.abs(values[i]));
        }
        return absmax;
    }

    private float normalize(float x, float absmax) {
        boolean flushed = fault == Fault.FLUSH_TO_ZERO;
        if (fault == Fault.CONSTANT_CLAMPED) {
            return Math.clamp(x * (1f / Math.max(absmax, SMALLEST_CLAMPED)), -1f, 1f);
        }
        if (absmax == 0 || flushed && absmax < Float.MIN_NORMAL) {
            return 0;
        }
        float reciprocal = 1f / absmax;
        if (flushed && reciprocal < Float.MIN_NORMAL) {
            return 0;
        }
        if (fault == Fault.DIVISION) {
            return x / absmax;
        }
        return Float.isInfinite(reciprocal) ? (float) ((double) x / absmax) : x * reciprocal;
    }

    private int code4(float x) {
        float[] thresholds = codebook.thresholds();
        float[] ascending = ascending();
        float compared = codebook.signMagnitude() ? Math.abs(x) : x;
        int rank = 0;
        for (int i = 0; i < thresholds.length; i++) {
            // bitsandbytes' literals of NF4 are the midpoints of the float32 values in double.
            double threshold = switch (fault) {
                case THRESHOLDS_IN_DOUBLE -> codebook.signMagnitude() ? thresholds[i]
                        : ((double) ascending[i] + ascending[i + 1]) / 2;
                case THRESHOLDS_ARE_MIDPOINTS -> (ascending[i] + ascending[i + 1]) / 2;
                case ROUNDED_DOWN -> Math.nextDown(ascending[i + 1]);
                case null, default -> thresholds[i];
            };
            if (compared > threshold || fault == Fault.TIES_GO_UP && compared == threshold) {
                rank++;
            }
        }
        int code = (int) (codebook.codesByRank() >>> 4 * rank) & 0xf;
        return codebook.signMagnitude() && x < 0 ? code | 8 : code;
    }

    /** The values in the order of their ranks; the magnitudes alone where the sign has a bit of its own. */
    private float[] ascending() {
        int count = codebook.thresholds().length + 1;
        float[] values = new float[count];
        for (int rank = 0; rank < count; rank++) {
            values[rank] = codebook.value((int) (codebook.codesByRank() >>> 4 * rank) & 0xf);
        }
        return values;
    }

    private int code8(float x) {
        float compared = x;
        if (fault == Fault.EIGHT_BIT_IN_BINS) {
            compared = (float) (2.0 * Math.round((x + 1.0) / 2 * BINS) / BINS - 1);
        }
        int code = 0;
        while (code < DynamicMap.SIZE - 1) {
            float low = DynamicMap.SIGNED.value(code);
            float high = DynamicMap.SIGNED.value(code + 1);
            float threshold = fault == Fault.ROUNDED_DOWN ? Math.nextDown(high) : (low + high) * 0.5f;
            if (!(compared > threshold)) {
                break;
            }
            code++;
        }
        return code;
    }

    private Tensor pack(int[] codes) {
        Tensor packed = Tensor.zeros(DType.U8, Math.ceilDiv(codes.length, 2));
        for (int i = 0; i < codes.length; i += 2) {
            int second = i + 1 < codes.length ? codes[i + 1] : codebook.zeroCode();
            packed.set(i / 2, fault == Fault.NIBBLES_SWAPPED ? second << 4 | codes[i] : codes[i] << 4 | second);
        }
        return packed;
    }

    private Tensor dequantize(int[] codes, float[] scales, int[] blockOf, Tensor like) {
        Tensor out = Tensor.zeros(like.dtype(), like.shape());
        for (int i = 0; i < codes.length; i++) {
            int columns = like.cols();
            int block = fault == Fault.CONSTANTS_BY_ROW
                    ? i / columns * (columns / blocksize) + i % columns / blocksize
                    : blockOf[i];
            float scale = scales[block];
            if (fault == Fault.CONSTANTS_IN_BFLOAT16) {
                scale = DType.bf16ToFloat(DType.floatToBf16(scale));
            }
            out.set(i, codebook.value(codes[i]) * scale);
        }
        return out;
    }

    private float mean(float[] constants) {
        if (fault == Fault.MEAN_IN_FLOAT32) {
            float sum = 0;
            for (float c : constants) {
                sum += c;
            }
            return sum / constants.length;
        }
        double total = 0;
        for (int from = 0; from < constants.length; from += MEAN_CHUNK) {
            double sum = 0;
            for (int j = from; j < Math.min(from + MEAN_CHUNK, constants.length); j++) {
                sum += constants[j];
            }
            total += sum;
        }
        return (float) (total / constants.length);
    }
}
