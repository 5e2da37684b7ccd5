package qlora4j.optim;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.net.URISyntaxException;
import java.nio.file.Path;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Twelve steps of PyTorch's and of bitsandbytes' AdamW, as both did them on a GPU. */
@Tag("lanes")
class AdamWGoldenTest {
    /** The project's limit for optimizers: about eight float32 roundings of a parameter of magnitude 1. */
    private static final double LIMIT = 1e-6;
    private static final int STEPS = 12;
    private static final int[] RECORDED = {1, 6, 12};

    @ParameterizedTest
    @CsvSource({"scalar, a, TORCH", "scalar, b, TORCH", "scalar, a, BITSANDBYTES", "scalar, b, BITSANDBYTES",
            "cpu, a, TORCH", "cpu, b, TORCH", "cpu, a, BITSANDBYTES", "cpu, b, BITSANDBYTES"})
    void parametersAndStatesAreThoseRecorded(String backendName, String set, AdamHyper.Formula formula)
            throws IOException, URISyntaxException {
        boolean torch = formula == AdamHyper.Formula.TORCH;
        String name = set + "." + (torch ? "torch_adamw" : "bnb_adamw32");
        Path file = Path.of(getClass().getResource("/golden/optim.safetensors").toURI());
        try (Safetensors golden = Safetensors.open(file); Backend backend = Backends.open(backendName, null, 2)) {
            String json = golden.metadata().get("hyper");
            AdamHyper hyper = new AdamHyper(formula, number(json, set, "betas\": \\["),
                    number(json, set, "betas\": \\[[^,]*, "), number(json, set, "eps\": "),
                    number(json, set, "weight_decay\": "), 1);
            double learningRate = number(json, set, "lr\": ");
            Tensor grads = golden.tensor(set + ".grads");
            Tensor params = golden.tensor(name + ".params");
            int n = grads.cols();
            try (ParameterStore store = ParameterStore.builder().add("w", n).build(backend);
                    AdamW adam = new AdamW(backend, store, Map.of(ParameterStore.DEFAULT_GROUP, hyper), Residency.ALL,
                            null);
                    Stream stream = backend.openStream()) {
                store.param("w").copyFrom(golden.tensor(set + ".p0"));
                int recorded = 0;
                for (int step = 1; step <= STEPS; step++) {
                    store.grad("w").copyFrom(grads.slice((step - 1L) * n, n));
                    adam.prepare(learningRate, 1);
                    adam.clip(stream, Double.POSITIVE_INFINITY);
                    adam.update(stream);
                    if (step == RECORDED[recorded]) {
                        assertClose("params after step " + step, store.param("w"),
                                params.slice((long) recorded * n, n));
                        recorded++;
                    }
                }
                assertThat(recorded).isEqualTo(RECORDED.length);
                for (int state = 0; state < 2; state++) {
                    String key = torch ? AdamW.STATES.get(state) : "state" + (state + 1);
                    Tensor ours = Tensor.zeros(DType.F32, n);
                    adam.states().read(state, 0, ours);
                    assertClose(key, ours, golden.tensor(name + ".state." + key));
                }
            }
        }
    }

    private static double number(String json, String set, String before) {
        Matcher m = Pattern.compile("\"" + set + "\": \\{[^}]*\"" + before + "([-+.e0-9]+)").matcher(json);
        assertThat(m.find()).as("%s of %s in %s", before, set, json).isTrue();
        return Double.parseDouble(m.group(1));
    }

    private static void assertClose(String what, Tensor ours, Tensor recorded) {
        assertThat(ours.size()).isEqualTo(recorded.size()).isPositive();
        double worst = 0;
        for (long i = 0; i < ours.size(); i++) {
            double d = Math.abs(ours.get(i) - recorded.get(i));
            assertThat(d <= LIMIT).as("%s[%d]: %s, recorded %s", what, i, ours.get(i), recorded.get(i)).isTrue();
            worst = Math.max(worst, d);
        }
        assertThat(worst).isLessThanOrEqualTo(LIMIT);
    }
}
