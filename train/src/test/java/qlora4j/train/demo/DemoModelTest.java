package qlora4j.train.demo;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.model.ModelDirectory;
import qlora4j.model.Tokenizer;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.train.data.TokenizedRow;

/** The bundled model's files, and that what it was pre-trained on holds nothing that the demo asks for. */
class DemoModelTest {
    private static final long SEED = 1;
    @TempDir
    private static Path model;

    @BeforeAll
    static void copy() throws IOException {
        DemoRun.copyModel(model);
    }

    @Test
    void isSmallAndComplete() throws IOException {
        long bytes = 0;
        try (var files = Files.list(model)) {
            for (Path f : files.toList()) {
                bytes += Files.size(f);
            }
        }
        assertThat(bytes).isLessThanOrEqualTo(6_000_000);
        try (ModelDirectory directory = ModelDirectory.open(model)) {
            SafetensorsView weights = directory.weights();
            long parameters = weights.names().stream().mapToLong(n -> weights.tensor(n).size()).sum();
            assertThat(parameters).isBetween(1_000_000L, 3_000_000L);
            assertThat(directory.tokenizer().vocabSize()).isLessThanOrEqualTo(directory.config().vocab());
            assertThat(directory.warnings()).isEmpty();
        }
    }

    @Test
    void preTrainingHoldsNoHeldOutResponseAndNoReversedPair() throws IOException {
        List<DemoCorpus.Pair> heldOut = DemoCorpus.heldOut(7, DemoRun.HELD_OUT);
        Set<String> responses = new HashSet<>(heldOut.stream().map(DemoCorpus.Pair::response).toList());
        int drills = 0;
        try (Backend cpu = Backends.open("cpu", null, 1); Tokenizer tokenizer = Tokenizer.open(model)) {
            int eos = tokenizer.eosId().getAsInt();
            List<TokenizedRow> rows = new DemoPretraining(cpu, model, 400_000, SEED).documents(tokenizer, eos);
            for (TokenizedRow row : rows) {
                String prompt = tokenizer.decode(Arrays.copyOf(row.ids(), row.promptLength()), false);
                String response = tokenizer.decode(
                        Arrays.copyOfRange(row.ids(), row.promptLength(), row.length() - 1), false);
                assertThat(DemoCorpus.isHeldOut(response)).as(response).isFalse();
                assertThat(responses).doesNotContain(response);
                // Never the response first and the instruction after it.
                assertThat(prompt).contains("### Instruction:\n").endsWith("\n\n### Response:\n");
                assertThat(response).doesNotContain("### Instruction:");
                drills += prompt.contains("Copy the words") ? 1 : 0;
            }
            assertThat(drills).isGreaterThan(rows.size() / 10);
        }
    }

    @Test
    void fineTuningHoldsNoHeldOutResponse() {
        Set<String> responses = new HashSet<>(
                DemoCorpus.heldOut(7, DemoRun.HELD_OUT).stream().map(DemoCorpus.Pair::response).toList());
        assertThat(responses).hasSize(DemoRun.HELD_OUT);
        DemoCorpus.reversedTrain(7).limit(DemoRun.REVERSED_PAIRS)
                .forEach(p -> assertThat(responses).doesNotContain(p.response()));
    }
}
