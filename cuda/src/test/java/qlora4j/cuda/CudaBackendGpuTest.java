package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.Random;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.DeviceMemoryException;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Memory, copies, conversion, errors and several contexts. */
@Tag("gpu")
class CudaBackendGpuTest {
    private static final DType[] FLOATS = {DType.F64, DType.F32, DType.BF16, DType.F16};

    /** Sizes around those of the pinned buffers: 4 MiB each, four of them. */
    @ParameterizedTest
    @ValueSource(longs = {1, 3, 64, 1_048_575, 1_048_576, 1_048_577, 4_194_305, 9_000_001})
    void whatIsUploadedIsDownloaded(long n) {
        try (CudaBackend b = Gpu.open()) {
            Tensor host = Tensor.zeros(DType.I32, n);
            Random random = new Random(Gpu.SEED + n);
            for (long i = 0; i < n; i++) {
                host.data().setAtIndex(java.lang.foreign.ValueLayout.JAVA_INT, i, random.nextInt());
            }
            Tensor device = Gpu.poisoned(b, DType.I32, n);
            b.upload(host, device);
            assertThat(Gpu.host(b, device).data().mismatch(host.data())).isEqualTo(-1);
        }
    }

    @Test
    void convertsAsTheCpuDoes() {
        try (CudaBackend b = Gpu.open()) {
            Random random = new Random(Gpu.SEED);
            double[] special = {0.0, -0.0, Double.POSITIVE_INFINITY, Double.NEGATIVE_INFINITY, Double.NaN, 65504, 65520,
                    1e-8, -6e-8, 1e-40, 3.4e38, 1.00390625, 1.01171875, 0x1.ffffffp-3, Double.MIN_VALUE};
            for (DType from : FLOATS) {
                for (DType to : FLOATS) {
                    Tensor host = Gpu.normal(random, from, 5_003);
                    for (int i = 0; i < special.length; i++) {
                        host.set(i, special[i]);
                    }
                    Tensor device = Gpu.poisoned(b, to, 5_003);
                    b.upload(host, device);
                    Tensor back = Gpu.host(b, device);
                    Tensor expected = Tensor.zeros(to, 5_003).copyFrom(host);
                    for (long i = 0; i < back.size(); i++) {
                        assertThat(Double.doubleToLongBits(back.get(i))).as("%s to %s of %s", from, to, host.get(i))
                                .isEqualTo(Double.doubleToLongBits(expected.get(i)));
                    }
                }
            }
        }
    }

    @Test
    void allocatesZeroedAndCounts() {
        try (CudaBackend b = Gpu.open()) {
            long before = b.ledger().total();
            var memory = b.allocate(1000, MemoryUse.KV_CACHE);
            assertThat(b.ledger().held(MemoryUse.KV_CACHE)).isEqualTo(1000);
            assertThat(memory.data().address() % 64).isZero();
            assertThat(Gpu.host(b, memory.tensor(0, DType.U8, 1000)).toInts()).containsOnly(0);
            Tensor t = Gpu.poisoned(b, DType.U8, 77);
            try (Stream s = b.openStream()) {
                s.zero(t.rows(1, 76));
                int[] bytes = Gpu.host(b, t).toInts();
                assertThat(bytes[0]).isEqualTo(255);
                assertThat(bytes[75]).isZero();
                assertThat(bytes[76]).isEqualTo(255);
                Tensor taken = s.take(DType.F32, 3, 5);
                s.release(taken);
            }
            memory.close();
            memory.close();
            assertThat(b.ledger().held(MemoryUse.KV_CACHE)).isZero();
            assertThat(b.ledger().total()).isGreaterThanOrEqualTo(before);
            assertThat(b.systemBytes().orElseThrow()).isPositive();
        }
    }

    @Test
    void saysWhatIsMissingWhenMemoryIsFull() {
        try (CudaBackend b = Gpu.open()) {
            b.predicted(123_400_000_000L);
            assertThatThrownBy(() -> b.allocate(1L << 45, MemoryUse.ACTIVATIONS))
                    .isInstanceOf(DeviceMemoryException.class).hasMessageContaining("35184.4 GB of activations")
                    .hasMessageContaining("are free").hasMessageContaining("predicted to hold 123.4 GB");
            Tensor small = Gpu.device(b, Tensor.of(new float[]{1, 2}, 2));
            assertThat(Gpu.host(b, small).toFloats()).containsExactly(1, 2);
        }
    }

    @Test
    void aDeviceThatIsNotThereIsAnError() {
        assertThatThrownBy(() -> Backends.open(Backend.CUDA, new Device(Backend.CUDA, 99), 0))
                .isInstanceOf(IllegalArgumentException.class).hasMessageContaining("cuda:99")
                .hasMessageContaining("there is no such device; there is cuda:0 (");
    }

    /** Two contexts at once, each with its own memory and code, used from two threads and in turns from one. */
    @Test
    void twoContexts() throws InterruptedException {
        try (CudaBackend a = Gpu.open();
                CudaBackend b = new CudaBackend(a.device(), CudaContext.separate(a.device().index()))) {
            Tensor x = Tensor.of(new float[]{1.5f, -2, 3}, 3);
            Tensor onA = a.allocate(MemoryUse.ACTIVATIONS, DType.BF16, 3);
            Tensor onB = b.allocate(MemoryUse.ACTIVATIONS, DType.F16, 3);
            a.upload(x, onA);
            b.upload(x, onB);
            a.upload(x, onA);
            assertThat(Gpu.host(b, onB).toFloats()).containsExactly(1.5f, -2, 3);
            assertThat(Gpu.host(a, onA).toFloats()).containsExactly(1.5f, -2, 3);
            Throwable[] failed = new Throwable[1];
            Thread other = Thread.ofPlatform().start(() -> {
                try {
                    for (int i = 0; i < 100; i++) {
                        b.upload(Tensor.of(new float[]{i, i + 1, i + 2}, 3), onB);
                        assertThat(Gpu.host(b, onB).toFloats()).containsExactly(i, i + 1, i + 2);
                    }
                } catch (Throwable e) {
                    failed[0] = e;
                }
            });
            for (int i = 0; i < 100; i++) {
                a.upload(Tensor.of(new float[]{-i, i, i}, 3), onA);
                assertThat(Gpu.host(a, onA).toFloats()).containsExactly(-i, i, i);
            }
            other.join();
            assertThat(failed[0]).isNull();
        }
    }
}
