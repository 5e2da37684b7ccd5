package qlora4j.nf4;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.FloatRange;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class CodebookTest {
    /** The table of QLoRA, appendix E, with the digits of bitsandbytes' source. */
    private static final float[] PUBLISHED = {
            -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
            -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
            0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f,
            1.0f};

    @Test
    void derivedNormalFloatIsThePublishedTable() {
        assertThat(NormalFloat.values(4)).containsExactly(PUBLISHED);
        assertThat(Codebook.NF4.values()).containsExactly(PUBLISHED);
        assertThat(Float.floatToRawIntBits(Codebook.NF4.value(7))).as("an exact positive zero").isZero();
    }

    @ParameterizedTest
    @ValueSource(ints = {2, 3, 5, 8})
    void otherWidthsHaveAZeroAndBothEnds(int bits) {
        float[] values = NormalFloat.values(bits);
        assertThat(values).hasSize(1 << bits).isSorted().contains(0f).contains(1f);
        assertThat(values[(1 << bits - 1) - 1]).as("half of the codes are positive").isZero();
    }

    @ParameterizedTest
    @ValueSource(ints = {1, 9})
    void otherWidthsAreRefused(int bits) {
        assertThatThrownBy(() -> NormalFloat.values(bits)).isInstanceOf(IllegalArgumentException.class)
                .hasMessageContaining(bits + " bits");
    }

    @Test
    void fp4ValuesAreTwelfths() {
        assertThat(Codebook.FP4.values()).containsExactly(0f, 0.005208333333f, 0.66666667f, 1f, 0.33333333f, 0.5f,
                0.16666667f, 0.25f, -0f, -0.005208333333f, -0.66666667f, -1f, -0.33333333f, -0.5f, -0.16666667f,
                -0.25f);
    }

    @Test
    void checkpointsListPositiveZeros() {
        assertThat(Codebook.FP4.quantMap()[8]).isEqualTo(0f);
        assertThat(Codebook.NF4.quantMap()).containsExactly(Codebook.NF4.values());
    }

    @Test
    void everyNf4ValueHasItsOwnCode() {
        for (int c = 0; c < Codebook.SIZE; c++) {
            assertThat(Codebook.NF4.code(Codebook.NF4.value(c))).isEqualTo(c);
        }
    }

    @Test
    void everyFp4ValueHasItsOwnCode() {
        for (int c = 0; c < Codebook.SIZE; c++) {
            // Code 8 is a second zero: a negative number too small for code 9.
            int expected = c == 8 ? 0 : c;
            assertThat(Codebook.FP4.code(Codebook.FP4.value(c))).isEqualTo(expected);
        }
        assertThat(Codebook.FP4.code(-1e-4f)).isEqualTo(8);
    }

    @Test
    void thresholdsBelongToTheLowerRank() {
        float[] nf4 = Codebook.NF4.thresholds();
        for (int i = 0; i < nf4.length; i++) {
            assertThat(Codebook.NF4.code(nf4[i])).isEqualTo(i);
            assertThat(Codebook.NF4.code(Math.nextUp(nf4[i]))).isEqualTo(i + 1);
        }
        int[] byRank = {0, 1, 6, 7, 4, 5, 2, 3};
        float[] fp4 = Codebook.FP4.thresholds();
        for (int i = 0; i < fp4.length; i++) {
            assertThat(Codebook.FP4.code(fp4[i])).isEqualTo(byRank[i]);
            assertThat(Codebook.FP4.code(-fp4[i])).isEqualTo(byRank[i] + 8);
            assertThat(Codebook.FP4.code(Math.nextUp(fp4[i]))).isEqualTo(byRank[i + 1]);
            assertThat(Codebook.FP4.code(-Math.nextUp(fp4[i]))).isEqualTo(byRank[i + 1] + 8);
        }
    }

    @Property
    void aCodeIsTheNearestValue(@ForAll @FloatRange(min = -1, max = 1) float x) {
        for (Codebook book : new Codebook[]{Codebook.NF4, Codebook.FP4}) {
            double best = Double.POSITIVE_INFINITY;
            for (float v : book.values()) {
                best = Math.min(best, Math.abs((double) v - x));
            }
            double got = Math.abs((double) book.value(book.code(x)) - x);
            // The published thresholds lie within 1e-6 of the midpoints (FP4's have six digits).
            assertThat(got - best).as("%s of %s", book, x).isBetween(0.0, 2e-6);
        }
    }

    @Test
    void zeroAndNanHaveStatedCodes() {
        assertThat(Codebook.NF4.zeroCode()).isEqualTo(7);
        assertThat(Codebook.NF4.code(-0f)).isEqualTo(7);
        assertThat(Codebook.NF4.code(Float.NaN)).isZero();
        assertThat(Codebook.FP4.zeroCode()).isZero();
        assertThat(Codebook.FP4.code(-0f)).isZero();
        assertThat(Codebook.FP4.code(Float.NaN)).isZero();
    }

    @Test
    void pairsHoldTheFirstElementHigh() {
        byte pair = Nibbles.pack(0xa, 0x3);
        assertThat(pair).isEqualTo((byte) 0xa3);
        assertThat(Nibbles.code(pair, 0)).isEqualTo(0xa);
        assertThat(Nibbles.code(pair, 7)).isEqualTo(0x3);
        assertThat(Nibbles.bytes(0)).isZero();
        assertThat(Nibbles.bytes(7)).isEqualTo(4);
        assertThat(Nibbles.bytes(8)).isEqualTo(4);
    }

    @Test
    void checkpointsListEveryZeroAsPositive() {
        for (Codebook codebook : new Codebook[]{Codebook.NF4, Codebook.FP4}) {
            float[] map = codebook.quantMap();
            for (int code = 0; code < Codebook.SIZE; code++) {
                float value = codebook.value(code);
                assertThat(Float.floatToRawIntBits(map[code])).as("%s, code %d", codebook, code)
                        .isEqualTo(value == 0 ? 0 : Float.floatToRawIntBits(value));
            }
        }
    }

    @Test
    void kernelsAreToldHowCodesAreOrdered() {
        assertThat(Codebook.NF4.signMagnitude()).isFalse();
        assertThat(Codebook.FP4.signMagnitude()).isTrue();
        assertThat(Codebook.NF4.codesByRank()).isEqualTo(0xfedcba9876543210L);
        assertThat(Codebook.FP4.codesByRank()).isEqualTo(0x32547610L);
        assertThat(Codebook.NF4.name()).isEqualTo("nf4").isEqualTo(Codebook.NF4.toString());
        assertThat(Codebook.FP4.name()).isEqualTo("fp4").isEqualTo(Codebook.FP4.toString());
    }
}
