package qlora4j.tensor;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorShape;
import jdk.incubator.vector.VectorSpecies;

/**
 * The one place that chooses the vector width. It is a constant of the process, because the compiler turns vector code
 * into machine instructions only where the species is a constant; see {@link Backends#VECTOR_BITS}.
 */
public final class Lanes {
    /** Float lanes. */
    public static final VectorSpecies<Float> F;
    /** Int lanes, as many as float lanes. */
    public static final VectorSpecies<Integer> I;
    /** The width in bits: 128, 256 or 512. */
    public static final int BITS;
    /** The number of 32-bit lanes. */
    public static final int L;

    static {
        String asked = System.getProperty(Backends.VECTOR_BITS);
        VectorShape shape = asked == null || asked.isEmpty()
                ? FloatVector.SPECIES_PREFERRED.vectorShape()
                : shape(asked);
        F = VectorSpecies.of(float.class, shape);
        I = VectorSpecies.of(int.class, shape);
        BITS = shape.vectorBitSize();
        L = F.length();
    }

    private Lanes() {
    }

    private static VectorShape shape(String bits) {
        return switch (bits) {
            case "128" -> VectorShape.S_128_BIT;
            case "256" -> VectorShape.S_256_BIT;
            case "512" -> VectorShape.S_512_BIT;
            default -> throw new IllegalArgumentException("--vector-bits " + bits + ": expected 128, 256 or 512");
        };
    }

    /** An int vector of the lane numbers 0, 1, 2 ... */
    public static IntVector iota() {
        return IntVector.zero(I).addIndex(1);
    }
}
