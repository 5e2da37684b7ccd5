package qlora4j.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class ResidencyTest {
    @ParameterizedTest
    @CsvSource({"100%, 1000", "0%, 0", "50%, 500", "12.5%, 125", "0, 0", "999, 999", "5000, 1000", "0.5k, 512",
            "1KiB, 1000", "2GiB, 1000"})
    void budgets(String text, long bytes) {
        assertThat(Residency.parse(text).budget(1000)).isEqualTo(bytes);
    }

    @Test
    void unitsAreBinary() {
        assertThat(Residency.parse("64MiB")).isEqualTo(new Residency.Bytes(64L << 20));
        assertThat(Residency.parse("2g")).isEqualTo(new Residency.Bytes(2L << 30));
    }

    @ParameterizedTest
    @ValueSource(strings = {"", "101%", "-1", "half", "10 %%", "1TB", "NaN%"})
    void mistakesNameTheFlag(String text) {
        assertThatThrownBy(() -> Residency.parse(text)).isInstanceOf(IllegalArgumentException.class)
                .hasMessageStartingWith("--optim-resident " + text.replace("%", ""));
    }
}
