package qlora4j.verify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Tensor;

/** The kit on a small bundle of recorded numbers, on damaged ones and on none. */
class ConformanceTest {
    @TempDir
    Path directory;

    private final List<String> lines = new ArrayList<>();

    private static Path bundle() {
        try {
            return Path.of(ConformanceTest.class.getResource("/bundle").toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    private Conformance.Summary run(String backendName, Path bundle, boolean selfTest) throws IOException {
        try (Backend backend = Backends.open(backendName)) {
            return Conformance.run(new Conformance.Options(bundle, backend, null, selfTest), lines::add);
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void theRecordedBundlePasses(String backend) throws IOException {
        Conformance.Summary summary = run(backend, bundle(), false);
        assertThat(lines).noneMatch(l -> l.startsWith("FAIL"));
        assertThat(summary.ok()).isTrue();
        assertThat(lines.getLast())
                .isEqualTo(summary.passed() + " passed, 0 failed, " + summary.unsupported() + " unsupported");
        assertThat(lines).filteredOn(l -> l.startsWith("ok ")).hasSize(summary.passed());
        assertThat(lines).filteredOn(l -> l.startsWith("unsupported ")).hasSize(summary.unsupported());
        for (String check : List.of("nf4.row_crossing_f32.b64.packed", "fp4.tail_65_f32.b64.nested.scales",
                "nf4.zeros_f32.b64.packed (documented divergence)", "blockwise8.small.dynamic_signed.b256.q",
                "optim.a.torch_adamw.params", "optim.b.bnb_adamw32.params", "optim.a.bnb_adamw8.params",
                "optim.b.bnb_adamw8.state.state2",
                "blockwise8.linear_signed", "llama.fp32.logits",
                "llama.fp32.hidden.3", "llama.fp32.greedy", "llama.nf4.logits", "llama.nf4.greedy",
                "llama.nf4_bf16.logits", "llama.bnb4bit.rewritten", "llama.lora.losses at steps 2 to 12",
                "llama.lora.merged_fp32.logits", "llama.dora.losses at steps 2 to 12", "llama.dora.merged_fp32.logits",
                "llama.qv.trained_logits", "llama.rslora.losses at step 1", "tokenizers.byte_level.encode",
                "chat_templates.model/gemma-it")) {
            assertThat(lines).anyMatch(l -> l.startsWith("ok ") && l.contains("  " + check + "  "));
        }
        for (String check : List.of("llama.other.losses")) {
            assertThat(lines).anyMatch(l -> l.startsWith("unsupported ") && l.contains("  " + check + "  "));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void everyKindOfRecordIsSeenWhenItIsOff(String backend) throws IOException {
        Conformance.Summary summary = run(backend, bundle(), true);
        assertThat(lines).noneMatch(l -> l.startsWith("FAIL"));
        assertThat(summary.passed()).as("%s", lines).isEqualTo(12);
        assertThat(summary.ok()).isTrue();
    }

    @Test
    void aRealModelNeedsItsDirectory() throws IOException {
        Path record = Files.createDirectory(directory.resolve("real"));
        Files.writeString(record.resolve("expected.json"), "{\"nf4.weights\": {}}");
        new SafetensorsWriter().write(record.resolve("expected.safetensors"));
        Conformance.Summary summary = run("cpu", directory, false);
        assertThat(lines).containsExactly("not run: needs --model  real", "0 passed, 0 failed, 0 unsupported");
        assertThat(summary.ok()).isFalse();
    }

    @Test
    void anUnknownArchitectureIsUnsupportedAndNothingRan() throws IOException {
        Path base = Files.createDirectories(directory.resolve("other/base"));
        Files.writeString(base.resolve("config.json"), "{\"model_type\": \"other\"}");
        new SafetensorsWriter().write(base.resolve("model.safetensors"));
        new SafetensorsWriter().add("fp32.logits", Tensor.of(new float[]{1}, 1)).add("input_ids",
                Tensor.of(new int[]{1}, 1, 1)).write(directory.resolve("other/expected.safetensors"));
        Conformance.Summary summary = run("cpu", directory, false);
        assertThat(summary).isEqualTo(new Conformance.Summary(0, 0, 1));
        assertThat(summary.ok()).isFalse();
    }

    @Test
    void whatCannotBeReadIsNamed() throws IOException {
        assertThatThrownBy(() -> run("cpu", directory.resolve("none"), false)).isInstanceOf(IOException.class)
                .hasMessageContaining("none");
        Files.writeString(directory.resolve("nf4.safetensors"), "damaged");
        assertThatThrownBy(() -> run("cpu", directory, false)).hasMessageContaining("nf4.safetensors");
    }
}
