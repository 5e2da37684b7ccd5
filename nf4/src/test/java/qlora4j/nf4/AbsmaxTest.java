package qlora4j.nf4;

import static org.assertj.core.api.Assertions.assertThat;

import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import org.junit.jupiter.api.Test;

class AbsmaxTest {
    /** Below this the float32 reciprocal overflows: 2^-128 is its last power of two. */
    private static final float TINY = 0x1p-128f;

    @Test
    void normalNumbersAreMultipliedByTheReciprocal() {
        assertThat(Absmax.normalize(41f, 41f)).isEqualTo(41f * (1f / 41f)).isEqualTo(Math.nextDown(1f));
    }

    @Test
    void aReciprocalThatOverflowsIsReplacedByADoubleQuotient() {
        assertThat(Absmax.isTiny(TINY)).isTrue();
        assertThat(Absmax.normalize(Float.MIN_VALUE * 3, Float.MIN_VALUE * 7)).isEqualTo((float) (3.0 / 7.0));
        assertThat(Absmax.normalize(-TINY, TINY)).isEqualTo(-1f);
        assertThat(Absmax.isTiny(0x1p-127f)).as("subnormal, with a finite reciprocal").isFalse();
        assertThat(Absmax.normalize(0x1p-128f, 0x1p-127f)).isEqualTo(0.5f);
    }

    @Test
    void aHugeConstantHasASubnormalReciprocal() {
        assertThat(Absmax.normalize(-Float.MAX_VALUE, Float.MAX_VALUE)).isEqualTo(-Float.MAX_VALUE * 0x1p-128f);
    }

    @Test
    void zeroBlocksNormalizeToZero() {
        assertThat(Absmax.normalize(0f, 0f)).isZero();
        assertThat(Codebook.NF4.code(Absmax.normalize(-0f, 0f))).isEqualTo(7);
    }

    @Test
    void nanAndInfinityStayVisible() {
        assertThat(Absmax.max(1f, Float.NaN)).isNaN();
        assertThat(Absmax.max(Float.NaN, 1f)).isNaN();
        assertThat(Absmax.normalize(1f, Float.NaN)).isNaN();
        assertThat(Absmax.normalize(Float.POSITIVE_INFINITY, Float.POSITIVE_INFINITY)).isNaN();
        assertThat(Absmax.normalize(5f, Float.POSITIVE_INFINITY)).isZero();
    }

    @Property
    void magnitudeBitsOrderAsMagnitudes(@ForAll float a, @ForAll float b) {
        int bits = Math.max(Float.floatToRawIntBits(a) & 0x7fffffff, Float.floatToRawIntBits(b) & 0x7fffffff);
        assertThat(Float.floatToIntBits(Absmax.ofBits(bits)))
                .isEqualTo(Float.floatToIntBits(Absmax.max(Math.abs(a), b)));
    }
}
