package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

class DynamicIndexTest {
    /** Numbers on both sides of everything at which a code changes, and numbers of all sizes. */
    private static float[] finite(DynamicMap map) {
        List<Float> x = new ArrayList<>(List.of(0f, -0f, Float.MIN_VALUE, -Float.MIN_VALUE, Float.MIN_NORMAL,
                -Float.MIN_NORMAL, 1f, -1f, Float.MAX_VALUE, -Float.MAX_VALUE));
        for (int i = 0; i < DynamicMap.SIZE; i++) {
            around(x, map.value(i));
        }
        for (float threshold : map.thresholds()) {
            around(x, threshold);
        }
        Random draw = new Random(8);
        for (int i = 0; i < 20_000; i++) {
            x.add(2 * draw.nextFloat() - 1);
            float any = Float.intBitsToFloat(draw.nextInt());
            x.add(Float.isFinite(any) ? any : 0);
        }
        float[] all = new float[x.size()];
        for (int i = 0; i < all.length; i++) {
            all[i] = x.get(i);
        }
        return all;
    }

    private static void around(List<Float> x, float y) {
        x.addAll(List.of(y, Math.nextUp(y), Math.nextDown(y), -y));
    }

    @ParameterizedTest
    @EnumSource(DynamicMap.class)
    void codesAreTheMaps(DynamicMap map) {
        DynamicIndex index = DynamicIndex.of(map);
        float[] x = finite(map);
        byte[] codes = new byte[x.length];
        index.codes(x, x.length, codes);
        for (int i = 0; i < x.length; i++) {
            assertThat(codes[i] & 0xff).as("%s", x[i]).isEqualTo(map.code(x[i]));
            assertThat(index.code(x[i])).as("%s", x[i]).isEqualTo(map.code(x[i]));
        }
    }

    @ParameterizedTest
    @EnumSource(DynamicMap.class)
    void codesOfInfinitiesAndNanAreTheMaps(DynamicMap map) {
        for (float x : new float[]{Float.NaN, Float.POSITIVE_INFINITY, Float.NEGATIVE_INFINITY}) {
            assertThat(DynamicIndex.of(map).code(x)).as("%s", x).isEqualTo(map.code(x));
        }
    }
}
