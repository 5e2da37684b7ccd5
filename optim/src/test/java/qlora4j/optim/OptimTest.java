package qlora4j.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

class OptimTest {
    /** Both formulas are algorithm 2 of Loshchilov and Hutter (2019), up to the place of weight decay. */
    @ParameterizedTest
    @EnumSource(AdamHyper.Formula.class)
    void float64FollowsThePaper(AdamHyper.Formula formula) {
        int n = 50;
        double lr = 0.01;
        AdamHyper h = new AdamHyper(formula, 0.9, 0.99, 1e-6, 0.1, 0.5);
        try (Backend backend = Backends.open("cpu"); Stream stream = backend.openStream();
                ParameterStore store = ParameterStore.builder(DType.F64).add("w", n).build(backend);
                AdamW adam = new AdamW(backend, store, Map.of(ParameterStore.DEFAULT_GROUP, h), Residency.ALL,
                        null)) {
            store.param("w").copyFrom(Bits.normal(DType.F64, 1, n, 1));
            double[] p = new double[n];
            double[] m = new double[n];
            double[] v = new double[n];
            for (int i = 0; i < n; i++) {
                p[i] = store.param("w").get(i);
            }
            double a = lr * h.learningRateScale();
            for (int t = 1; t <= 20; t++) {
                Tensor g = Bits.normal(DType.F64, 100 + t, n, 0.1);
                store.grad("w").copyFrom(g);
                adam.prepare(lr, 0.25);
                adam.clip(stream, 0.05);
                adam.update(stream);
                double norm = 0;
                for (int i = 0; i < n; i++) {
                    norm += g.get(i) * g.get(i) / 16;
                }
                double scale = 0.25 * Math.min(1, 0.05 / (Math.sqrt(norm) + 1e-6));
                assertThat(scale).isLessThan(0.25);
                assertThat(adam.gradNorm()).isCloseTo(Math.sqrt(norm), within(1e-15));
                for (int i = 0; i < n; i++) {
                    m[i] = 0.9 * m[i] + 0.1 * scale * g.get(i);
                    v[i] = 0.99 * v[i] + 0.01 * Math.pow(scale * g.get(i), 2);
                    double update = a * (m[i] / (1 - Math.pow(0.9, t)))
                            / (Math.sqrt(v[i] / (1 - Math.pow(0.99, t))) + 1e-6);
                    p[i] = formula == AdamHyper.Formula.TORCH
                            ? p[i] * (1 - a * 0.1) - update
                            : (p[i] - update) * (1 - a * 0.1);
                }
            }
            for (int i = 0; i < n; i++) {
                // 20 steps of a dozen double operations on values of about 1.
                assertThat(store.param("w").get(i)).isCloseTo(p[i], within(20 * 12 * 0x1p-53 * 4));
            }
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void clippingIsThatOfPyTorch(String name) {
        try (Backend backend = Backends.open(name); Stream stream = backend.openStream()) {
            Tensor scalars = Bits.scalars(1e-3, 1, 1, 0);
            Tensor grads = Tensor.of(new float[]{3, 0, -4}, 3);
            Optim.clip(stream, grads, 1, scalars);
            assertThat(scalars.get(OptimScalars.GRAD_NORM)).isEqualTo(5);
            assertThat(scalars.get(OptimScalars.CLIP_SCALE)).isEqualTo(1 / (5 + 1e-6));
            Optim.clip(stream, grads, 6, scalars);
            assertThat(scalars.get(OptimScalars.CLIP_SCALE)).isEqualTo(1);
            Optim.clip(stream, grads, Double.POSITIVE_INFINITY, scalars);
            assertThat(scalars.get(OptimScalars.CLIP_SCALE)).isEqualTo(1);
            Optim.clip(stream, Tensor.of(new float[3], 3), 1, scalars);
            assertThat(scalars.get(OptimScalars.GRAD_NORM)).isZero();
            assertThat(scalars.get(OptimScalars.CLIP_SCALE)).isEqualTo(1);
            for (float bad : new float[]{Float.NaN, Float.POSITIVE_INFINITY}) {
                Optim.clip(stream, Tensor.of(new float[]{1, bad, 2}, 3), 1, scalars);
                assertThat(Double.isFinite(scalars.get(OptimScalars.GRAD_NORM))).isFalse();
            }
            // Large and small magnitudes neither overflow nor vanish: squares are taken in double.
            Optim.clip(stream, Tensor.of(new float[]{3e38f, 0}, 2), 1, scalars);
            assertThat(scalars.get(OptimScalars.GRAD_NORM)).isEqualTo((double) 3e38f);
            Optim.clip(stream, Tensor.of(new float[]{Float.MIN_VALUE, 0}, 2), 1, scalars);
            assertThat(scalars.get(OptimScalars.GRAD_NORM)).isEqualTo((double) Float.MIN_VALUE);
        }
    }

    @Test
    void theBadTensorIsNamed() {
        try (Backend backend = Backends.open("cpu"); Stream stream = backend.openStream();
                ParameterStore store = ParameterStore.builder().add("first", 20).add("second", 4, 5).build(backend)) {
            assertThat(Optim.firstNonFinite(stream, store)).isEmpty();
            store.param("first").set(3, Double.NaN);
            assertThat(Optim.firstNonFinite(stream, store).orElseThrow()).startsWith("value of first: 1 of 20");
            store.grad("second").set(19, Double.NEGATIVE_INFINITY);
            store.grad("second").set(0, Double.NaN);
            assertThat(Optim.firstNonFinite(stream, store).orElseThrow()).as("a value is the cause, gradients follow")
                    .startsWith("value of first: 1 of 20");
            store.param("first").set(3, 0);
            assertThat(Optim.firstNonFinite(stream, store).orElseThrow())
                    .isEqualTo("gradient of second: 2 of 20 elements are NaN or infinite");
        }
    }

    @Test
    void groupsHaveTheirOwnDecayAndPaddingStaysZero() {
        try (Backend backend = Backends.open("cpu"); Stream stream = backend.openStream();
                ParameterStore store = ParameterStore.builder().add("w", 3).addTo("norms", "n", 5).build(backend);
                AdamW adam = new AdamW(backend, store,
                        Map.of(ParameterStore.DEFAULT_GROUP, AdamHyper.defaults(AdamHyper.Formula.TORCH)
                                .withWeightDecay(0.5), "norms", AdamHyper.defaults(AdamHyper.Formula.TORCH)),
                        Residency.ALL, null)) {
            store.param("w").fill(1);
            store.param("n").fill(1);
            adam.prepare(0.1, 1);
            adam.clip(stream, 1);
            adam.update(stream);
            assertThat(store.param("w").toFloats()).containsOnly(0.95f);
            assertThat(store.param("n").toFloats()).containsOnly(1f);
            store.grad("w").fill(1e3);
            store.grad("n").fill(-1e3);
            for (int step = 0; step < 5; step++) {
                adam.prepare(0.1, 1);
                adam.clip(stream, 1);
                adam.update(stream);
            }
            assertThat(adam.step()).isEqualTo(6);
            for (long i = 0; i < store.flatSize(); i++) {
                boolean padding = i >= 3 && i < ParameterStore.ALIGNMENT || i >= ParameterStore.ALIGNMENT + 5;
                assertThat(store.flatParams().get(i) == 0).as("element %d", i).isEqualTo(padding);
            }
        }
    }

    @Test
    void mistakesAreNamed() {
        Tensor a = Tensor.zeros(DType.F32, 8);
        Tensor b = Tensor.zeros(DType.F32, 8);
        Tensor c = Tensor.zeros(DType.F32, 8);
        Tensor d = Tensor.zeros(DType.F32, 12);
        Tensor s = Bits.scalars(1, 1, 1, 1);
        AdamHyper h = AdamHyper.defaults(AdamHyper.Formula.TORCH);
        try (Backend backend = Backends.open("scalar"); Stream stream = backend.openStream();
                ParameterStore store = ParameterStore.builder().add("w", 3).addTo("norms", "n", 5).build(backend)) {
            assertThatThrownBy(() -> Optim.adamW(stream, h, a, b, c, d, s)).hasMessageContaining("expAvgSq is F32[12]");
            assertThatThrownBy(() -> Optim.adamW(stream, h, a, b, d.slice(0, 8), d.slice(4, 8), s))
                    .hasMessageContaining("expAvg and expAvgSq share memory");
            assertThatThrownBy(() -> Optim.adamW(stream, h, a, b, c, d.slice(0, 8), a))
                    .hasMessageContaining("scalars is F32[8]");
            assertThatThrownBy(() -> Optim.clip(stream, a, 0, s)).hasMessageContaining("max_grad_norm is 0");
            assertThatThrownBy(() -> Optim.clip(stream, a, Double.NaN, s)).hasMessageContaining("max_grad_norm");
            assertThatThrownBy(() -> new AdamW(backend, store, Map.of("norms", h), Residency.ALL, null))
                    .hasMessageContaining("group default");
            try (AdamW adam = new AdamW(backend, store, Map.of("norms", h, ParameterStore.DEFAULT_GROUP, h),
                    Residency.ALL, null)) {
                assertThatThrownBy(() -> adam.update(stream)).hasMessageContaining("clip comes before update");
                assertThatThrownBy(() -> adam.prepare(Double.NaN, 1)).hasMessageContaining("learning rate NaN");
                assertThatThrownBy(() -> adam.prepare(1, 0)).hasMessageContaining("gradient scale");
            }
        }
        assertThatThrownBy(() -> new AdamHyper(AdamHyper.Formula.TORCH, 1, 0.9, 1e-8, 0, 1))
                .hasMessageContaining("--adam-beta1 1.0: must be");
        assertThatThrownBy(() -> h.withWeightDecay(Double.NaN)).hasMessageContaining("--weight-decay");
    }
}
