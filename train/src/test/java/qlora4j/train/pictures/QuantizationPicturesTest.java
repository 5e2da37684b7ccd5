package qlora4j.train.pictures;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import javax.xml.parsers.DocumentBuilderFactory;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.blockwise.QuantConfig;
import qlora4j.nf4.Codebook;
import qlora4j.safetensors.SafetensorsModel;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What is measured of normal weights, against plain loops, and the pictures of it. */
class QuantizationPicturesTest {
    private static final int ROWS = 64;
    private static final int COLUMNS = 129;

    @TempDir
    private Path folder;

    private static float[] normal(long seed) {
        Random random = new Random(seed);
        float[] w = new float[ROWS * COLUMNS];
        for (int i = 0; i < w.length; i++) {
            w[i] = (float) (0.03 * random.nextGaussian());
        }
        return w;
    }

    private QuantizationSurvey survey(List<String> done) throws IOException {
        Path file = folder.resolve("model.safetensors");
        SafetensorsWriter writer = new SafetensorsWriter();
        for (int layer = 0; layer < 3; layer++) {
            writer.add("model.layers." + layer + ".mlp.up_proj.weight", Tensor.of(normal(layer), ROWS, COLUMNS));
            writer.add("model.layers." + layer + ".self_attn.q_proj.weight", Tensor.of(normal(-1), ROWS, COLUMNS));
        }
        writer.add("model.layers.0.input_layernorm.weight", Tensor.of(new float[]{1}, 1));
        writer.add("lm_head.weight", Tensor.of(normal(9), ROWS, COLUMNS));
        writer.write(file);
        try (SafetensorsModel view = SafetensorsModel.open(file);
                Backend cpu = Backends.open("scalar");
                Stream stream = cpu.openStream()) {
            return QuantizationSurvey.of(view, stream, done::add);
        }
    }

    @Test
    void errorsAreThoseOfTheNearestLevel() throws IOException {
        List<String> done = new ArrayList<>();
        QuantizationSurvey survey = survey(done);
        assertThat(done).hasSize(6).doesNotContain("lm_head.weight");
        float[] w = normal(1);
        float[] int4 = new float[15];
        for (int i = 0; i < int4.length; i++) {
            int4[i] = (i - 7) / 7f;
        }
        QuantizationSurvey.Matrix m = survey.matrices().stream()
                .filter(x -> x.layer() == 1 && x.module().equals("mlp.up_proj")).findFirst().orElseThrow();
        assertThat(m.weights()).isEqualTo(w.length);
        // Thresholds differ from midpoints by an ulp and products are rounded to float32: far below 1e-5 of the sum.
        assertThat(m.errors().get(Format.NF4)).isCloseTo(nearest(w, 64, Codebook.NF4.values()),
                within(1e-5 * m.squares()));
        assertThat(m.errors().get(Format.INT4)).isCloseTo(nearest(w, 64, int4), within(1e-5 * m.squares()));
        assertThat(m.errors().get(Format.FP4)).isCloseTo(nearest(w, 64, Codebook.FP4.values()),
                within(1e-4 * m.squares()));
        assertThat(Arrays.stream(survey.histogram()).sum()).isEqualTo(6L * w.length);
    }

    /** Normal weights: NF4 loses least, and every format more the larger the blocks. */
    @Test
    void largerBlocksLoseMoreAndNf4Least() throws IOException {
        QuantizationSurvey survey = survey(new ArrayList<>());
        assertThat(survey.bySize().get(Format.NF4)).hasSize(8).containsKeys(QuantConfig.MIN_BLOCKSIZE,
                QuantConfig.MAX_BLOCKSIZE);
        for (Format f : Format.values()) {
            assertThat(new ArrayList<>(survey.bySize().get(f).values())).as(f.name()).isSorted();
            if (f != Format.NF4) {
                assertThat(survey.bySize().get(f).get(64)).isGreaterThan(survey.bySize().get(Format.NF4).get(64));
            }
        }
    }

    private static double nearest(float[] w, int blocksize, float[] levels) {
        double sum = 0;
        for (int from = 0; from < w.length; from += blocksize) {
            int to = Math.min(w.length, from + blocksize);
            double absmax = 0;
            for (int i = from; i < to; i++) {
                absmax = Math.max(absmax, Math.abs(w[i]));
            }
            for (int i = from; i < to; i++) {
                double least = Double.POSITIVE_INFINITY;
                for (float level : levels) {
                    double d = w[i] - level * absmax;
                    least = Math.min(least, d * d);
                }
                sum += least;
            }
        }
        return sum;
    }

    @Test
    void picturesAreWellFormedAndShowEveryLevel() throws Exception {
        List<Path> files = new QuantizationPictures(survey(new ArrayList<>())).write(folder.resolve("out"));
        assertThat(files).hasSize(5);
        for (Path file : files) {
            var svg = DocumentBuilderFactory.newInstance().newDocumentBuilder().parse(file.toFile());
            assertThat(svg.getDocumentElement().getTagName()).isEqualTo("svg");
        }
        String levels = Files.readString(files.getFirst());
        assertThat(levels.split("class=\"mark", -1)).hasSize(1 + Codebook.SIZE);
        assertThat(Files.readString(folder.resolve("out/error-by-blocksize.svg"))).contains("block size 4096\nNF4: ",
                "\nFP4: ", "\nINT4: ");
    }

    @Test
    void aCheckpointWithoutLayersIsRefused() throws IOException {
        Path file = folder.resolve("model.safetensors");
        new SafetensorsWriter().add("a.weight", Tensor.of(new float[4], 2, 2)).write(file);
        try (SafetensorsModel view = SafetensorsModel.open(file);
                Backend cpu = Backends.open("scalar");
                Stream stream = cpu.openStream()) {
            assertThatThrownBy(() -> QuantizationSurvey.of(view, stream, _ -> {
            })).isInstanceOf(IllegalArgumentException.class).hasMessageContaining("layers.N.MODULE.weight");
        }
    }
}
