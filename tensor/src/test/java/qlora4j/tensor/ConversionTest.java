package qlora4j.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.EnumSet;
import java.util.Random;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Bulk conversion gives what reading and writing one element gives, bit for bit; a NaN gives a NaN. */
class ConversionTest {
    private static final EnumSet<DType> TYPES = EnumSet.of(DType.F64, DType.F32, DType.BF16, DType.F16);

    static Stream<Arguments> pairs() {
        return TYPES.stream().flatMap(a -> TYPES.stream().filter(b -> a != b).map(b -> Arguments.of(a, b)));
    }

    private static void compare(Tensor source, DType target) {
        Tensor bulk = Tensor.zeros(target, source.size());
        Tensor single = Tensor.zeros(target, source.size());
        bulk.copyFrom(source);
        float[] floats = source.toFloats();
        for (long i = 0; i < source.size(); i++) {
            single.set(i, source.get(i));
            if (Double.isNaN(source.get(i))) {
                assertThat(bulk.get(i)).as("element %d of %s", i, source).isNaN();
                assertThat(floats[(int) i]).isNaN();
            } else if (!same(single, bulk, i) || Float.floatToRawIntBits(floats[(int) i]) != Float
                    .floatToRawIntBits((float) source.get(i))) {
                throw new AssertionError("element " + i + " of " + source + " is " + source.get(i) + ": one by one "
                        + single.get(i) + ", in bulk " + bulk.get(i) + ", as a float " + floats[(int) i]);
            }
        }
    }

    private static boolean same(Tensor a, Tensor b, long i) {
        int width = a.dtype().bytes();
        return a.data().asSlice(i * width, width).mismatch(b.data().asSlice(i * width, width)) == -1;
    }

    /** Every bit pattern of the 16-bit types; of the wider ones every pattern of the upper half over random lower ones. */
    @ParameterizedTest
    @MethodSource("pairs")
    void everyKindOfValue(DType from, DType to) {
        Tensor source = Tensor.zeros(from, 3 << 16);
        Random random = new Random(1);
        int width = from.bytes();
        byte[] element = new byte[width];
        // The bits that a narrowing rounds away: none, a tie, and any.
        for (int i = 0; i < source.size(); i++) {
            int tail = i >> 16;
            random.nextBytes(element);
            for (int b = 0; b < width - 2 && tail < 2; b++) {
                element[b] = b == width - 3 && tail == 1 ? (byte) 0x80 : 0;
            }
            element[width - 2] = (byte) i;
            element[width - 1] = (byte) (i >> 8);
            MemorySegment.copy(element, 0, source.data(), ValueLayout.JAVA_BYTE, (long) i * width, width);
        }
        compare(source, to);
    }

    /** Values around all of the target's, where rounding decides: each, and the middle to its neighbour give or take. */
    @ParameterizedTest
    @MethodSource("pairs")
    void tiesOfTheTarget(DType from, DType to) {
        DType narrow = to == DType.BF16 ? DType.BF16 : DType.F16;
        Tensor values = Tensor.zeros(narrow, 1 << 16);
        for (int i = 0; i < 1 << 16; i++) {
            values.data().set(ValueLayout.JAVA_SHORT_UNALIGNED, 2L * i, (short) i);
        }
        Tensor source = Tensor.zeros(from, 3L << 16);
        for (int i = 0; i < 1 << 16; i++) {
            double middle = (values.get(i) + values.get(i + 1 & 0xffff)) / 2;
            source.set(3L * i, middle);
            source.set(3L * i + 1, Math.nextUp(middle));
            source.set(3L * i + 2, Math.nextDown((float) middle));
        }
        compare(source, to);
    }

    @ParameterizedTest
    @ValueSource(ints = {0, 1, 2, 7, 2047, 2048, 2049, 4096, 5001})
    void everyLengthAndAnyAlignment(int n) {
        try (Arena arena = Arena.ofConfined()) {
            for (DType from : TYPES) {
                Tensor source = Tensor.of(from, arena.allocate((n + 1L) * 8).asSlice(1), n);
                Random random = new Random(n);
                for (int i = 0; i < n; i++) {
                    source.set(i, random.nextGaussian());
                }
                TYPES.forEach(to -> compare(source, to));
            }
        }
    }

    @Test
    void otherTypesGoElementByElement() {
        Tensor f8 = Tensor.zeros(DType.F8_E4M3, 256);
        for (int i = 0; i < 256; i++) {
            f8.data().set(ValueLayout.JAVA_BYTE, i, (byte) i);
        }
        Tensor f32 = Tensor.zeros(DType.F32, 256).copyFrom(f8);
        for (int i = 0; i < 256; i++) {
            assertThat(Double.compare(f32.get(i), f8.get(i))).as("code %d", i).isZero();
        }
        assertThat(Tensor.zeros(DType.I32, 2).copyFrom(Tensor.of(new float[]{-7.9f, 3e9f}, 2)).toInts())
                .containsExactly(-7, Integer.MAX_VALUE);
    }

    @Test
    void equalTypesCopyBytesEvenWhereTheyOverlap() {
        Tensor all = Tensor.of(new float[]{1, 2, 3, 4}, 4);
        all.slice(1, 3).copyFrom(all.slice(0, 3));
        assertThat(all.toFloats()).containsExactly(1, 1, 2, 3);
    }

    @Test
    void sizesMustAgree() {
        assertThatThrownBy(() -> Tensor.zeros(DType.F32, 3).copyFrom(Tensor.zeros(DType.F16, 4)))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("F16[4]");
    }
}
