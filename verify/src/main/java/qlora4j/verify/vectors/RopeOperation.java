package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.model.DecoderOps;
import qlora4j.model.RopeConfig;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** Rotary position embeddings, without and with llama3's scaling: section 7. */
final class RopeOperation implements Operation {
    private static final int HEAD = 16;
    private static final int HEADS = 2;
    private static final int[] POSITIONS = {0, 1, 7, 40};
    private static final int LENGTH = 41;
    private static final double THETA = 500;
    /** Some wavelengths lie above, between and below the two borders of 32 and 8. */
    private static final RopeConfig SCALED = new RopeConfig(THETA, RopeConfig.Type.LLAMA3, 8, 1, 4, 32);
    /** Angles up to 40 radians whose frequencies and products are float32: 40·2⁻²³ twice, times numbers below 4. */
    private static final double LIMIT = 5e-5;

    private final boolean scaled;
    private final Tensor x = Inputs.normal(DType.F32, 56, 1, POSITIONS.length, HEADS * HEAD);

    RopeOperation(boolean scaled) {
        this.scaled = scaled;
    }

    @Override
    public String name() {
        return scaled ? "rope.llama3" : "rope";
    }

    @Override
    public String section() {
        return "7";
    }

    @Override
    public Map<String, Object> parameters() {
        Map<String, Object> p = new LinkedHashMap<>(
                Map.of("rope_type", scaled ? "llama3" : "default", "rope_theta", THETA, "head_dim", HEAD));
        if (scaled) {
            p.putAll(Map.of("factor", SCALED.factor(), "low_freq_factor", SCALED.lowFreqFactor(), "high_freq_factor",
                    SCALED.highFreqFactor(), "original_max_position_embeddings", SCALED.originalMaxPositions()));
        }
        return p;
    }

    @Override
    public Map<String, Tensor> inputs() {
        return Map.of("x", x, "positions", Tensor.of(POSITIONS, POSITIONS.length));
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("y", LIMIT));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        double[] frequencies = (scaled ? SCALED : RopeConfig.unscaled(THETA)).inverseFrequencies(HEAD);
        Tensor table = Tensor.zeros(DType.F32, LENGTH, HEAD);
        for (int p = 0; p < LENGTH; p++) {
            for (int j = 0; j < HEAD / 2; j++) {
                float angle = p * (float) frequencies[j];
                table.set((long) p * HEAD + j, StrictMath.cos(angle));
                table.set((long) p * HEAD + HEAD / 2 + j, StrictMath.sin(angle));
            }
        }
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            Tensor q = on.copy(x);
            DecoderOps.rope(s, q, on.copy(x), on.copy(Tensor.of(POSITIONS, POSITIONS.length)), on.copy(table), HEAD,
                    false);
            return Map.of("y", on.download(q));
        }
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        boolean interleaved = fault == Fault.ROPE_INTERLEAVED;
        Tensor y = Tensor.zeros(DType.F32, x.shape());
        for (int i = 0; i < POSITIONS.length; i++) {
            int position = POSITIONS[i] + (fault == Fault.ROPE_POSITION_OFF_BY_ONE ? 1 : 0);
            for (int h = 0; h < HEADS; h++) {
                long head = ((long) i * HEADS + h) * HEAD;
                for (int j = 0; j < HEAD / 2; j++) {
                    long a = head + (interleaved ? 2 * j : j);
                    long b = interleaved ? a + 1 : a + HEAD / 2;
                    double angle = position * frequency(j, fault);
                    y.set(a, x.get(a) * Math.cos(angle) - x.get(b) * Math.sin(angle));
                    y.set(b, x.get(b) * Math.cos(angle) + x.get(a) * Math.sin(angle));
                }
            }
        }
        return Map.of("y", y);
    }

    private double frequency(int j, Fault fault) {
        double theta = fault == Fault.ROPE_THETA_IGNORED ? RopeConfig.DEFAULT_THETA : THETA;
        double f = Math.pow(theta, -2.0 * j / HEAD);
        if (!scaled || fault == Fault.ROPE_SCALING_MISSING) {
            return f;
        }
        double turns = SCALED.originalMaxPositions() * f / (2 * Math.PI);
        double t = (turns - SCALED.lowFreqFactor()) / (SCALED.highFreqFactor() - SCALED.lowFreqFactor());
        double blend = Math.min(1, Math.max(0, t));
        return (1 - blend) * f / SCALED.factor() + blend * f;
    }
}
