package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SamplingConfigTest {
    @Test
    void aTemperatureOfZeroIsGreedy() {
        assertThat(SamplingConfig.of(0, 5, 0.9, 1.2, 3)).isEqualTo(new SamplingConfig(false, 1, 5, 0.9, 1.2, 3));
        assertThat(SamplingConfig.of(0.7, 5, 0.9, 1.2, 3)).isEqualTo(new SamplingConfig(true, 0.7, 5, 0.9, 1.2, 3));
    }

    @ParameterizedTest
    @CsvSource({"-1,0,1,1,--temperature", "NaN,0,1,1,--temperature", "Infinity,0,1,1,--temperature", "1,-1,1,1,--top-k",
            "1,0,0,1,--top-p", "1,0,1.01,1,--top-p", "1,0,NaN,1,--top-p", "1,0,1,0,--repetition-penalty",
            "1,0,1,NaN,--repetition-penalty"})
    void badValuesAreRefusedByTheirFlag(double temperature, int topK, double topP, double penalty, String flag) {
        assertThatThrownBy(() -> SamplingConfig.of(temperature, topK, topP, penalty, 0))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining(flag);
    }
}
