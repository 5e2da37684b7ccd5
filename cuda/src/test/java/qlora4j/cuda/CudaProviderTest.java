package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import jcuda.driver.CUresult;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Device;
import qlora4j.tensor.DeviceMemoryException;

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

    @ParameterizedTest
    @CsvSource({"12030,12.3", "11080,11.8"})
    void aDriverThatIsTooOldIsNamed(int version, String said) {
        assertThat(CudaDriver.tooOld(version)).hasValueSatisfying(why -> assertThat(why)
                .contains("offers CUDA " + said + ",").contains("driver 550 or newer (CUDA 12.4)"));
        assertThat(CudaDriver.tooOld(12_040)).isEmpty();
        assertThat(CudaDriver.tooOld(13_000)).isEmpty();
    }

    /** A full GPU is nothing wrong with this program, whichever call finds it. */
    @Test
    void noRoomForAContextIsSaid() {
        assertThatThrownBy(() -> CudaDriver.check(CUresult.CUDA_ERROR_OUT_OF_MEMORY, "cuDevicePrimaryCtxRetain"))
                .isInstanceOf(DeviceMemoryException.class).hasMessageContaining("cuDevicePrimaryCtxRetain")
                .hasMessageContaining("nvidia-smi");
    }

    @Test
    void isNoCpu() {
        assertThat(new CudaProvider().unavailable(Device.CPU)).isPresent();
    }
}
