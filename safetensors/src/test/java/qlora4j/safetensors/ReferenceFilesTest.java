package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.lang.foreign.ValueLayout;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.EnumSet;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.DType;

/**
 * Files written by the reference implementation: {@code reference.safetensors} by huggingface/safetensors 0.8.0, with
 * every dtype that its Python interface can write, a scalar, zero-size tensors and names and metadata that need
 * escapes; {@code adapter_model.safetensors} by PEFT 0.21.
 */
class ReferenceFilesTest {
    private static final Set<DType> NOT_WRITTEN_BY_PYTHON = EnumSet.of(DType.F6_E2M3, DType.F6_E3M2);

    @TempDir
    Path directory;

    static Path resource(String name) throws URISyntaxException {
        return Path.of(ReferenceFilesTest.class.getResource(name).toURI());
    }

    @Test
    void readsWhatTheReferenceWrote() throws Exception {
        try (Safetensors file = Safetensors.open(resource("reference.safetensors"))) {
            Set<DType> seen = EnumSet.noneOf(DType.class);
            file.names().forEach(name -> seen.add(file.info(name).dtype()));
            assertThat(seen).isEqualTo(EnumSet.complementOf(EnumSet.copyOf(NOT_WRITTEN_BY_PYTHON)));
            assertThat(file.metadata()).containsOnly(
                    Map.entry("made by", "safetensors 0.8.0 \t\u007f\u0002\\/"));
            assertThat(file.tensor("scalar").get(0)).isEqualTo(1.0);
            assertThat(file.info("scalar").shape()).isEmpty();
            assertThat(file.info("empty/é\"\n\u0001\uD83D\uDE00").shape()).containsExactly(3, 0);
            assertThat(file.info("33.float4_e2m1fn_x2").shape()).containsExactly(2, 6);
            // Byte j of tensor i was written as (31 (7 + i) + 17 j + 5) mod 256; int8 is tensor 13.
            byte[] int8 = file.segment("81.int8").toArray(ValueLayout.JAVA_BYTE);
            for (int j = 0; j < 6; j++) {
                assertThat(int8[j]).isEqualTo((byte) (31 * 20 + 17 * j + 5));
                assertThat(file.tensor("81.int8").get(j)).isEqualTo(int8[j]);
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"reference.safetensors", "adapter_model.safetensors"})
    void writesTheSameBytesAsTheReferenceFromAnyOrder(String name) throws Exception {
        Path original = resource(name);
        Path copy = directory.resolve(name);
        rewrite(original, copy);
        assertThat(Files.readAllBytes(copy)).isEqualTo(Files.readAllBytes(original));
    }

    private static void rewrite(Path original, Path copy) throws IOException {
        try (Safetensors file = Safetensors.open(original)) {
            List<String> names = new ArrayList<>(file.names());
            Collections.shuffle(names, new Random(1));
            SafetensorsWriter writer = new SafetensorsWriter().metadata(file.metadata());
            names.forEach(n -> writer.add(n, file.tensor(n)));
            assertThat(writer.fileBytes()).isEqualTo(Files.size(original));
            writer.write(copy);
        }
    }

    @Test
    void bytesOfAnAdapterAreItsNumbers() throws Exception {
        try (SafetensorsModel model = SafetensorsModel.open(resource("adapter_model.safetensors"))) {
            String name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
            float[] values = model.tensor(name).toFloats();
            assertThat(model.info(name).shape()).containsExactly(6, 64);
            assertThat(values).hasSize(6 * 64);
            // Kaiming-uniform with a = sqrt(5): within 1 / sqrt(64), and it reaches most of that range.
            assertThat(Arrays.equals(values, new float[values.length])).isFalse();
            for (float v : values) {
                assertThat(v).isBetween(-0.125f, 0.125f);
            }
        }
    }
}
