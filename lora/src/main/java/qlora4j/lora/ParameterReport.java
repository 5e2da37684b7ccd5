package qlora4j.lora;

import java.math.BigDecimal;
import java.math.RoundingMode;
import java.util.Locale;

/**
 * How much is trained, and in how many bits the rest is held.
 *
 * @param trainable trained parameters
 * @param frozen parameters of the base model that are not trained, counted as elements and not as packed bytes
 * @param frozenBytes the bytes that hold them: codes, constants and dense tensors
 */
public record ParameterReport(long trainable, long frozen, long frozenBytes) {
    private static final int DECIMALS = 4;

    public ParameterReport {
        if (trainable < 0 || frozen < 0 || frozenBytes < 0) {
            throw new IllegalArgumentException("negative count: " + trainable + " trainable, " + frozen + " frozen in "
                    + frozenBytes + " bytes");
        }
    }

    /** All parameters, as PEFT counts them: the base model's and the adapter's. */
    public long total() {
        return Math.addExact(trainable, frozen);
    }

    /** Trainable parameters in per cent of all; 0 where there are none. */
    public double percent() {
        return total() == 0 ? 0 : 100.0 * trainable / total();
    }

    /** Bits in which one frozen parameter is held; 0 where there are none. */
    public double bitsPerParameter() {
        return frozen == 0 ? 0 : 8.0 * frozenBytes / frozen;
    }

    /** One line: that of PEFT's {@code print_trainable_parameters}, and the base model's bits per parameter. */
    public String line() {
        return String.format(Locale.ROOT,
                "trainable params: %,d || all params: %,d || trainable%%: %s || base bits/param: %s", trainable,
                total(), fixed(percent()), fixed(bitsPerParameter()));
    }

    /** As Python's {@code .4f}: the exact value of the double, ties to even. */
    private static String fixed(double value) {
        return new BigDecimal(value).setScale(DECIMALS, RoundingMode.HALF_EVEN).toPlainString();
    }

    @Override
    public String toString() {
        return line();
    }
}
