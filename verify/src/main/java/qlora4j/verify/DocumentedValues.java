package qlora4j.verify;

import qlora4j.blockwise.DynamicMap;
import qlora4j.blockwise.QuantConfig;
import qlora4j.nf4.Codebook;
import qlora4j.nf4.Nibbles;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * What the numeric contract says of a quantized tensor where the record follows another: computed here from the
 * definitions, in double and without the kernels.
 */
final class DocumentedValues {
    /** Published thresholds are this near to midpoints (FP4's have six digits); a code may be the runner-up by it. */
    private static final double THRESHOLD_SLACK = 2e-6;

    private final Tensor input;
    private final QuantConfig config;
    private final Codebook codebook;
    private final Tensor absmax;

    DocumentedValues(Tensor input, QuantConfig config) {
        this.input = input;
        this.config = config;
        this.codebook = config.type().codebook();
        this.absmax = Tensor.zeros(DType.F32, config.blocks(input.size()));
        for (long i = 0; i < input.size(); i++) {
            long block = i / config.blocksize();
            absmax.set(block, Math.max(absmax.get(block), Math.abs(input.get(i))));
        }
    }

    /** The largest magnitude of each block. */
    Tensor absmax() {
        return absmax;
    }

    /** Whether each code is that of the nearest value, and that of 0 in a block of zeros. */
    Outcome codes(Tensor packed) {
        long wrong = 0;
        String first = "";
        for (long i = 0; i < input.size(); i++) {
            int code = Nibbles.code((byte) packed.get(i / 2), i);
            double largest = absmax.get(i / config.blocksize());
            boolean right = largest == 0
                    ? code == codebook.zeroCode()
                    : nearest(codebook.values(), codebook.value(code), input.get(i) / largest);
            if (!right && wrong++ == 0) {
                first = "code " + code + " for element " + i + ", " + input.get(i) + " of " + largest;
            }
        }
        return Outcome.equal(wrong, input.size(), first);
    }

    private static boolean nearest(float[] values, double chosen, double x) {
        double best = Double.POSITIVE_INFINITY;
        for (float v : values) {
            best = Math.min(best, Math.abs(v - x));
        }
        return Math.abs(chosen - x) <= best + THRESHOLD_SLACK;
    }

    /** The values that codes stand for: +0 in a block of zeros. */
    Tensor dequantized(Tensor packed) {
        Tensor out = Tensor.zeros(input.dtype(), input.shape());
        for (long i = 0; i < input.size(); i++) {
            float value = codebook.value(Nibbles.code((byte) packed.get(i / 2), i));
            out.set(i, value * (float) absmax.get(i / config.blocksize()));
        }
        return out;
    }

    /** Whether the offset is the constants' mean, and each second-level constant and code what they must be. */
    Outcome nested(Tensor codes, Tensor absmax2, Tensor offset) {
        double sum = 0;
        for (long j = 0; j < absmax.size(); j++) {
            sum += absmax.get(j);
        }
        if ((float) (sum / absmax.size()) != offset.get(0)) {
            return Outcome.fail("the offset is " + offset.get(0) + ", the mean " + sum / absmax.size());
        }
        Tensor largest = Tensor.zeros(DType.F32, absmax2.size());
        for (long j = 0; j < absmax.size(); j++) {
            long group = j / QuantConfig.NESTED_BLOCKSIZE;
            largest.set(group, Math.max(largest.get(group), Math.abs(rest(j, offset))));
        }
        Outcome constants = Compare.bits(absmax2, largest);
        long wrong = 0;
        String first = "";
        for (long j = 0; constants.ok() && j < absmax.size(); j++) {
            double scale = largest.get(j / QuantConfig.NESTED_BLOCKSIZE);
            if (scale != 0 && !nearest(DynamicMap.SIGNED.table(), DynamicMap.SIGNED.value((int) codes.get(j)),
                    rest(j, offset) / scale) && wrong++ == 0) {
                first = "code " + (int) codes.get(j) + " for constant " + j;
            }
        }
        return constants.ok() ? Outcome.equal(wrong, absmax.size(), first) : constants;
    }

    private float rest(long j, Tensor offset) {
        return (float) absmax.get(j) - (float) offset.get(0);
    }
}
