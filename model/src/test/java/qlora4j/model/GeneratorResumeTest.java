package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Set;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;

/** A generator that goes on with what its cache holds writes what one that begins anew writes. */
class GeneratorResumeTest {
    private static final int NEW = 5;
    /** Of float32 logits of magnitude one, at the end of some 30 sums of up to 64 terms: {@code 30·√64·ε}. */
    private static final double TOLERANCE = 3e-5;

    @TempDir
    private Path folder;

    @Test
    void computesOnlyWhatIsNew() throws IOException {
        Path file = TinyModel.write(folder.resolve("m.safetensors"), TinyModel.WINDOWED);
        try (Backend cpu = Backends.open("cpu", null, 2)) {
            Decoder decoder = TinyModel.load(file, TinyModel.WINDOWED, cpu, DType.F32, true);
            try (Generator resumed = new Generator(decoder, 40); Generator fresh = new Generator(decoder, 40)) {
                int[] first = {3, 5, 7, 9};
                int[] answer = resume(resumed, first, Adapters.NONE);
                assertThat(resumed.reused()).isZero();
                int[] second = join(first, answer, new int[]{11, 12, 13});
                same(resumed, fresh, second, Adapters.NONE);
                assertThat(resumed.reused()).as("all but the answer's last token, which was never fed")
                        .isEqualTo(first.length + NEW - 1);
                int[] edited = second.clone();
                edited[2] = 8;
                same(resumed, fresh, edited, Adapters.NONE);
                assertThat(resumed.reused()).isEqualTo(2);
                same(resumed, fresh, edited, Adapters.NONE);
                assertThat(resumed.reused()).as("the last token's logits are wanted").isEqualTo(edited.length - 1);
                same(resumed, fresh, edited, Adapters.of(0));
                assertThat(resumed.reused()).as("keys under other adapters").isZero();
                same(resumed, fresh, new int[]{3, 5}, Adapters.of(0));
                assertThat(resumed.reused()).as("a shorter prompt").isEqualTo(1);
            }
        }
    }

    private static int[] resume(Generator g, int[] prompt, Adapters adapters) {
        return g.resume(prompt, NEW, SamplingConfig.GREEDY, adapters, Set.of(), null);
    }

    private static void same(Generator resumed, Generator fresh, int[] prompt, Adapters adapters) {
        int[] got = resume(resumed, prompt, adapters);
        assertThat(got).isEqualTo(fresh.generate(prompt, NEW, SamplingConfig.GREEDY, adapters, Set.of(), null));
        float[] logits = resumed.lastLogits();
        float[] expected = fresh.lastLogits();
        for (int i = 0; i < logits.length; i++) {
            assertThat((double) logits[i]).isCloseTo(expected[i],
                    within(TOLERANCE * Math.max(1, Math.abs(expected[i]))));
        }
    }

    private static int[] join(int[]... parts) {
        return Arrays.stream(parts).flatMapToInt(Arrays::stream).toArray();
    }
}
