package qlora4j.bench;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.util.ArrayList;
import java.util.EnumSet;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import qlora4j.bench.BenchRun.Target;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;

class BenchRunTest {
    private static BenchSettings settings(DType type) {
        return new BenchSettings(0.002, type, 96, 128, 4, 0.1, 2, 8, true, 12, 4, 6, 1 << 20);
    }

    @ParameterizedTest
    @EnumSource(value = DType.class, names = {"F32", "BF16"})
    void everyTargetGivesItsFiguresAndTheMemoryBack(DType type) throws IOException {
        List<String> lines = new ArrayList<>();
        try (Backend cpu = Backends.open(Backend.CPU, null, 2)) {
            BenchSettings settings = settings(type);
            Results r = BenchRun.run(cpu, EnumSet.allOf(Target.class), BenchRun.random(cpu, "tiny", settings), settings,
                    lines::add);
            assertThat(r.figures()).extracting(Figure::id).contains("ceiling.copy", "ceiling.read", "ceiling.flops",
                    "quantize", "dequantize", "matvec", "matmul.m64", "matmul.m256", "matmul.m1024",
                    "matmul_backward.m1024", "step", "step.memory", "prefill", "decode", "decode.adapter",
                    "decode.batch", "decode.batch.adapters");
            assertThat(r.figures()).allSatisfy(f -> assertThat(f.value()).as(f.id()).isPositive());
            assertThat(r.figures()).filteredOn(f -> f.timing() != null && !f.id().startsWith("ceiling"))
                    .allSatisfy(f -> assertThat(f.ceiling()).as(f.id()).isPositive());
            assertThat(r.machine()).containsEntry("matrix", "96x128").containsEntry("model", "tiny, random weights");
            // The two decoders' tables of rotations, which live as long as the backend.
            assertThat(cpu.ledger().total()).as("bytes that are still held").isLessThanOrEqualTo(2 * 256 * 32 * 4);
        }
        assertThat(lines.getFirst()).startsWith("check: losses of 3 steps");
    }

    @Test
    void ceilingsNeedNoModel() throws IOException {
        try (Backend scalar = Backends.open(Backend.SCALAR)) {
            Results r = BenchRun.run(scalar, Set.of(Target.CEILINGS), null, settings(DType.F32), _ -> {
            });
            assertThat(r.figures()).allSatisfy(f -> assertThat(f.id()).startsWith("ceiling."));
        }
    }

    @Test
    void sequencesBeyondTheModelAreRefused() {
        BenchSettings long1 = new BenchSettings(0.01, DType.F32, 8, 64, 4, 0, 1, 5000, false, 8, 4, 4, 1 << 20);
        try (Backend cpu = Backends.open(Backend.CPU, null, 1)) {
            assertThatThrownBy(() -> BenchRun.run(cpu, Set.of(Target.TRAIN), BenchRun.random(cpu, "tiny", long1), long1,
                    _ -> {
                    })).hasMessageContaining("5000 tokens").hasMessageContaining("--max-seq-length");
        }
    }

    @Test
    void settingsNameTheFlagThatIsWrong() {
        assertThatThrownBy(() -> new BenchSettings(0, DType.F32, 8, 64, 4, 0, 1, 8, false, 8, 4, 4, 1 << 20))
                .hasMessageContaining("--seconds");
        assertThatThrownBy(() -> new BenchSettings(1, DType.F64, 8, 64, 4, 0, 1, 8, false, 8, 4, 4, 1 << 20))
                .hasMessageContaining("--compute-dtype");
        assertThatThrownBy(() -> new BenchSettings(1, DType.F32, 8, 64, 4, 1, 1, 8, false, 8, 4, 4, 1 << 20))
                .hasMessageContaining("--lora-dropout");
        assertThatThrownBy(() -> new BenchSettings(1, DType.F32, 8, 64, 4, 0, 1, 8, false, 8, 4, 1, 1 << 20))
                .hasMessageContaining("--max-new-tokens");
        assertThatThrownBy(() -> Shapes.named("gpt-5")).hasMessageContaining("mistral-7b")
                .hasMessageContaining("--model");
    }

    /** A backend whose losses differ is not timed; NaN is no agreement. */
    @Test
    void lossesThatDifferAreAnError() {
        double[] scalar = {5, 4, 3};
        assertThat(LossCheck.compare(new double[]{5, 4.0001, 3}, scalar, 1e-4)).contains("at most 2.5e-05 apart");
        assertThatThrownBy(() -> LossCheck.compare(new double[]{5, 4, 3.001}, scalar, 1e-4))
                .hasMessageContaining("step 3").hasMessageContaining("3.001");
        assertThatThrownBy(() -> LossCheck.compare(new double[]{5, Double.NaN, 3}, scalar, 1e-4))
                .hasMessageContaining("NaN");
    }
}
