package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import org.junit.jupiter.api.Test;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Device;

/** What is said where there is no GPU. On a machine with one, the tests tagged gpu run instead. */
class CudaProviderTest {
    @Test
    void isFoundAndSaysWhyItCannotRun() {
        assumeTrue(CudaDriver.unavailable().isPresent(), "this machine has a GPU");
        assertThatThrownBy(() -> Backends.open("cuda", new Device("cuda", 1), 0))
                .isInstanceOf(IllegalArgumentException.class)
                .hasMessageStartingWith("--backend cuda --device cuda:1: ").hasMessageContaining("--backend cpu");
    }

    @Test
    void autoFallsBackToTheCpuWhereNoGpuIs() {
        assumeTrue(CudaDriver.unavailable().isPresent(), "this machine has a GPU");
        try (var b = Backends.open("auto", null, 1)) {
            assertThat(b.name()).isEqualTo("cpu");
        }
    }

    @Test
    void isNoCpu() {
        assertThat(new CudaProvider().unavailable(Device.CPU)).isPresent();
    }
}
