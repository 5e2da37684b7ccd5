package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.OptionalInt;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class GenerationConfigTest {
    @TempDir
    Path directory;

    private GenerationConfig read(String config, String generation) throws IOException {
        Files.writeString(directory.resolve("config.json"), config);
        if (generation != null) {
            Files.writeString(directory.resolve("generation_config.json"), generation);
        }
        return GenerationConfig.read(directory);
    }

    @Test
    void theFileCountsThenTheModelsConfiguration() throws IOException {
        assertThat(read("{\"eos_token_id\":2}", null).eosIds()).containsExactly(2);
        assertThat(read("{\"eos_token_id\":2}", "{\"do_sample\":true}").eosIds()).containsExactly(2);
        GenerationConfig full = read("{\"eos_token_id\":2}", """
                {"eos_token_id": [7, 3, 7], "do_sample": true, "temperature": 0.6, "top_k": 5, "top_p": 0.9,
                 "repetition_penalty": 1.1, "max_new_tokens": 12, "bos_token_id": 1, "num_beams": 4, "min_p": 0}""");
        assertThat(full.eosIds()).containsExactly(7, 3);
        assertThat(full.isEos(3)).isTrue();
        assertThat(full.isEos(2)).isFalse();
        assertThat(full.maxNewTokens()).hasValue(12);
        assertThat(full.bosId()).hasValue(1);
        assertThat(full.padId()).isEmpty();
        assertThat(full.ignored()).containsExactly("num_beams=4");
        assertThat(full.sampling(9)).isEqualTo(new SamplingConfig(true, 0.6, 5, 0.9, 1.1, 9));
    }

    @Test
    void whatIsLeftOutIsWhatTransformersAssumes() throws IOException {
        GenerationConfig none = read("{}", "{}");
        assertThat(none.doSample()).isFalse();
        assertThat(none.topK()).isEqualTo(50);
        assertThat(none.maxNewTokens()).isEmpty();
        assertThat(none.sampling(0)).isEqualTo(SamplingConfig.GREEDY);
        assertThat(read("{}", "{\"top_k\":null}").topK()).isZero();
    }

    @Test
    void trainingEndsWithTheTokenizersEosWhereItCounts() throws IOException {
        GenerationConfig list = read("{\"eos_token_id\":[7,3]}", null);
        assertThat(list.trainingEos(OptionalInt.of(3))).isEqualTo(3);
        assertThat(list.trainingEos(OptionalInt.of(4))).isEqualTo(7);
        assertThat(list.trainingEos(OptionalInt.empty())).isEqualTo(7);
        assertThatThrownBy(() -> read("{}", null).trainingEos(OptionalInt.of(3))).hasMessageContaining("eos_token_id");
    }

    @Test
    void badValuesAreRefusedWithTheirFile() {
        for (String bad : new String[]{"{\"eos_token_id\":\"</s>\"}", "{\"eos_token_id\":[-4]}",
                "{\"do_sample\":true,\"temperature\":-1}", "{\"do_sample\":true,\"top_p\":0}", "{\"top_k\":1.5}",
                "{\"max_new_tokens\":-3}"}) {
            assertThatThrownBy(() -> read("{}", bad)).as(bad).isInstanceOf(ModelFormatException.class)
                    .hasMessageContaining("generation_config.json");
        }
    }
}
