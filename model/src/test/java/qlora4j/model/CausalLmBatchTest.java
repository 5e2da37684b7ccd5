package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.LoraConfig.Bias;
import qlora4j.model.CausalLm.GenerateOptions;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;

/** Texts of a batch are those that each row's adapter writes alone. */
class CausalLmBatchTest {
    private static final LoraConfig PLAIN = new LoraConfig(2, 4, 0, List.of(LoraConfig.ALL_LINEAR), null, 40);
    private static final GenerateOptions GREEDY = GenerateOptions.greedy(8);
    private static final List<String> ROWS = List.of("second", CausalLm.BASE, "first", "second");
    private static final List<int[]> PROMPTS = List.of(TinyModel.sequences(31, 4, 1, 9, 6));
    private static final Backend SCALAR = Backends.open(Backend.SCALAR);

    @TempDir
    private static Path directory;
    private static Path base;

    @BeforeAll
    static void write() throws IOException {
        base = TinyModel.directory(directory, TinyModel.LLAMA);
    }

    @AfterAll
    static void close() {
        SCALAR.close();
    }

    private static CausalLm load(LoraConfig first, LoraConfig second) throws IOException {
        CausalLm lm = CausalLm.load(base, SCALAR, DecoderLoader.QLORA);
        List<LoraConfig> configs = List.of(first, second);
        for (int i = 0; i < configs.size(); i++) {
            String name = List.of("first", "second").get(i);
            Path saved = directory.resolve(name + configs.get(i).hashCode());
            try (CausalLm other = CausalLm.load(base, SCALAR, DecoderLoader.QLORA);
                    Adapter made = TinyModel.adapter(other.decoder(), 0, configs.get(i), 40 + i)) {
                made.save(saved);
            }
            lm.load(name, saved);
        }
        return lm;
    }

    private static List<String> alone(CausalLm lm, GenerateOptions options) throws IOException {
        List<String> all = new ArrayList<>();
        for (int i = 0; i < ROWS.size(); i++) {
            StringBuilder text = new StringBuilder();
            lm.generate(ROWS.get(i), PROMPTS.get(i), options, text::append);
            all.add(text.toString());
        }
        return all;
    }

    private static List<String> together(CausalLm lm, GenerateOptions options) throws IOException {
        List<StringBuilder> texts = ROWS.stream().map(_ -> new StringBuilder()).toList();
        List<Integer> ended = new ArrayList<>();
        int[] made = lm.generate(ROWS, PROMPTS, options, new CausalLm.RowText() {
            @Override
            public void text(int row, String piece) {
                assertThat(ended).as("rows that have ended").doesNotContain(row);
                texts.get(row).append(piece);
            }

            @Override
            public void ended(int row) {
                ended.add(row);
            }
        });
        assertThat(ended).containsExactlyInAnyOrder(0, 1, 2, 3);
        for (int i = 0; i < ROWS.size(); i++) {
            assertThat(made[i]).isEqualTo(lm.generate(ROWS.get(i), PROMPTS.get(i), options, _ -> {
            }));
        }
        return texts.stream().map(StringBuilder::toString).toList();
    }

    @Test
    void textsAreThoseOfEachAlone() throws IOException {
        try (CausalLm lm = load(PLAIN, PLAIN)) {
            List<String> greedy = alone(lm, GREEDY);
            assertThat(together(lm, GREEDY)).isEqualTo(greedy);
            assertThat(greedy).doesNotHaveDuplicates();
            SamplingConfig drawn = new SamplingConfig(true, 1.3, 20, 0.95, 1.2, 5);
            GenerateOptions draw = new GenerateOptions(8, drawn, List.of());
            assertThat(together(lm, draw)).isEqualTo(alone(lm, draw)).isNotEqualTo(greedy);
            String stop = greedy.get(2).substring(2, 4);
            GenerateOptions stopped = new GenerateOptions(8, SamplingConfig.GREEDY, List.of(stop));
            assertThat(together(lm, stopped)).isEqualTo(alone(lm, stopped)).isNotEqualTo(greedy);
        }
    }

    /** An adapter with norms of its own cannot share a batch with others. */
    @Test
    void whatABatchHasOneOfIsNotShared() throws IOException {
        try (CausalLm lm = load(PLAIN, PLAIN.withTrained(Bias.NONE, List.of("norm")))) {
            assertThat(together(lm, GREEDY)).isEqualTo(alone(lm, GREEDY));
        }
    }

    @Test
    void promptsOfText() throws IOException {
        int last = TinyModel.LLAMA.vocab() - 1;
        try (CausalLm lm = load(PLAIN, PLAIN)) {
            // Characters of the tokenizer's first tokens: the embedding has no others.
            String text = lm.tokenizer().decode(new int[]{last, last - 1}, false);
            List<String> texts = lm.generate(List.of("first", "base"), List.of(text, text + text), GREEDY);
            assertThat(texts).containsExactly(lm.generate("first", text, GREEDY),
                    lm.generate("base", text + text, GREEDY));
        }
    }

    @Test
    void refusesRowsThatItCannotWrite() throws IOException {
        try (CausalLm lm = load(PLAIN, PLAIN)) {
            refused(lm, "no prompts", List.of(), List.of());
            refused(lm, "adapters for 1 rows and prompts for 2", List.of("base"), List.of(new int[1], new int[1]));
            refused(lm, "row 1: the prompt has no tokens", List.of("base", "first"), List.of(new int[1], new int[0]));
            refused(lm, "row 1: 60 prompt tokens and 8 new ones; the model was made for at most 64",
                    List.of("base", "first"), List.of(new int[1], new int[60]));
            refused(lm, "no adapter is called third", List.of("third"), List.of(new int[1]));
        }
    }

    private static void refused(CausalLm lm, String message, List<String> adapters, List<int[]> prompts) {
        assertThatIllegalArgumentException().isThrownBy(() -> lm.generate(adapters, prompts, GREEDY, (_, _) -> {
        })).withMessageContaining(message);
    }
}
