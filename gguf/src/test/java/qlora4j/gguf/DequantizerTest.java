package qlora4j.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import qlora4j.safetensors.Safetensors;

/**
 * Random blocks and the values that the Python package {@code gguf} 0.17.1 gives them, bit for bit. The blocks' scales
 * are any float16 but infinities and NaN.
 */
class DequantizerTest {
    @TempDir
    private Path folder;

    private Safetensors recorded() throws IOException {
        Path file = folder.resolve("blocks.safetensors");
        if (!Files.exists(file)) {
            try (InputStream in = DequantizerTest.class.getResourceAsStream("blocks.safetensors")) {
                Files.copy(in, file);
            }
        }
        return Safetensors.open(file);
    }

    static Stream<GgmlType> readable() {
        return GgmlType.readable().stream().sorted();
    }

    @ParameterizedTest
    @MethodSource("readable")
    void givesTheRecordedValues(GgmlType type) throws IOException {
        try (Safetensors recorded = recorded()) {
            byte[] blocks = recorded.segment(type + ".blocks").toArray(ValueLayout.JAVA_BYTE);
            float[] expected = recorded.tensor(type + ".values").toFloats();
            float[] values = new float[expected.length];
            Dequantizer.dequantize(type, blocks, values, values.length);
            assertThat(values.length).isGreaterThanOrEqualTo(64);
            for (int i = 0; i < values.length; i++) {
                // Quiet NaNs among random F32, F16 and BF16 keep no bits that two programs agree on.
                assertThat(Float.floatToIntBits(values[i])).as("%s element %d: %s, expected %s", type, i, values[i],
                        expected[i]).isEqualTo(Float.floatToIntBits(expected[i]));
            }
        }
    }

    @Test
    void quantizesToTheRecordedBlocks() throws IOException {
        try (Safetensors recorded = recorded()) {
            float[] values = recorded.tensor("quantize.values").toFloats();
            byte[] blocks = new byte[(int) GgmlType.Q8_0.bytes(values.length)];
            Q80.quantize(values, blocks, values.length);
            assertThat(blocks).isEqualTo(recorded.segment("quantize.Q8_0").toArray(ValueLayout.JAVA_BYTE));
        }
    }

    @Test
    void refusesWhatItCannotRead() {
        assertThatThrownBy(() -> Dequantizer.dequantize(GgmlType.Q2_K, new byte[84], new float[256], 256))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("Q2_K");
        assertThatThrownBy(() -> Dequantizer.dequantize(GgmlType.Q4_0, new byte[18], new float[64], 33))
                .isInstanceOf(IllegalArgumentException.class);
        assertThatThrownBy(() -> Dequantizer.dequantize(GgmlType.Q4_0, new byte[17], new float[32], 32))
                .isInstanceOf(IllegalArgumentException.class);
    }
}
