package qlora4j.blockwise;

import java.util.Locale;
import qlora4j.nf4.Codebook;

/** The 4-bit data types. */
public enum QuantType {
    NF4(Codebook.NF4), FP4(Codebook.FP4);

    private final Codebook codebook;

    QuantType(Codebook codebook) {
        this.codebook = codebook;
    }

    public Codebook codebook() {
        return codebook;
    }

    /** The type named {@code nf4} or {@code fp4}, as checkpoints and the command line write it. */
    public static QuantType named(String name) {
        for (QuantType t : values()) {
            if (t.toString().equals(name)) {
                return t;
            }
        }
        throw new IllegalArgumentException("quantization type \"" + name + "\": expected nf4 or fp4");
    }

    @Override
    public String toString() {
        return name().toLowerCase(Locale.ROOT);
    }
}
