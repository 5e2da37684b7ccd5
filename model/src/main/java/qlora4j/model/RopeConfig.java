package qlora4j.model;

import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.Locale;

/**
 * Rotary position embeddings: how fast each pair of a head's features turns.
 *
 * @param theta the base of the frequencies
 * @param type with or without llama-3's scaling
 * @param factor llama3: long wavelengths are stretched by it; 1 otherwise
 * @param lowFreqFactor llama3: wavelengths above {@code originalMaxPositions / lowFreqFactor} are stretched wholly
 * @param highFreqFactor llama3: wavelengths below {@code originalMaxPositions / highFreqFactor} stay as they are
 * @param originalMaxPositions llama3: the context length of the pre-training, in tokens; 0 otherwise
 */
public record RopeConfig(double theta, Type type, double factor, double lowFreqFactor, double highFreqFactor,
        int originalMaxPositions) {
    /** The theta of a configuration that names none. */
    public static final double DEFAULT_THETA = 10000;

    /** The kinds of frequencies. */
    public enum Type {
        DEFAULT, LLAMA3;

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    public RopeConfig {
        if (!(theta > 0) || Double.isInfinite(theta)) {
            throw new IllegalArgumentException("rope_theta " + theta + ": a positive number is expected");
        }
        if (type == Type.LLAMA3) {
            if (!(factor >= 1) || Double.isInfinite(factor)) {
                throw new IllegalArgumentException("rope factor " + factor + ": a number of at least 1 is expected");
            }
            if (!(lowFreqFactor > 0) || !(highFreqFactor > lowFreqFactor) || Double.isInfinite(highFreqFactor)) {
                throw new IllegalArgumentException("rope low_freq_factor " + lowFreqFactor + ", high_freq_factor "
                        + highFreqFactor + ": 0 < low < high is expected");
            }
            if (originalMaxPositions <= 0) {
                throw new IllegalArgumentException("rope original_max_position_embeddings " + originalMaxPositions
                        + ": a positive number is expected");
            }
        }
    }

    /** Frequencies without scaling. */
    public static RopeConfig unscaled(double theta) {
        return new RopeConfig(theta, Type.DEFAULT, 1, 1, 1, 0);
    }

    /**
     * The frequencies {@code theta^(-2i/headDim)} in radians per position, scaled where the type asks for it.
     *
     * <p>Hugging Face transformers computes them in float32 (modeling_rope_utils.py), and a product with a position of
     * some thousands magnifies the rounding, so each step here is rounded to float32 as there: the exponent
     * {@code 2i/headDim}, the power, its reciprocal, and for llama3 the wavelength {@code 2 pi / f} (PyTorch multiplies
     * by the reciprocal), the blend factor, and the blend. The power is taken in double and rounded once;
     * PyTorch's own may differ from that by an ulp, on which its CPU and CUDA versions do not agree either.
     *
     * @param headDim features of a head: even
     * @return {@code [headDim / 2]}, each a float32 value
     */
    public double[] inverseFrequencies(int headDim) {
        double[] frequencies = new double[headDim / 2];
        for (int i = 0; i < frequencies.length; i++) {
            float exponent = (float) (2 * i) / headDim;
            float frequency = 1f / (float) StrictMath.pow(theta, exponent);
            frequencies[i] = switch (type) {
                case DEFAULT -> frequency;
                case LLAMA3 -> scaled(frequency);
            };
        }
        return frequencies;
    }

    /** Llama 3.1's scaling: the frequency divided by the factor at long wavelengths, a blend at middle ones. */
    private float scaled(float frequency) {
        float wavelength = (1f / frequency) * (float) (2 * Math.PI);
        if (wavelength > (float) (originalMaxPositions / lowFreqFactor)) {
            return frequency / (float) factor;
        }
        if (wavelength < (float) (originalMaxPositions / highFreqFactor)) {
            return frequency;
        }
        float turns = (1f / wavelength) * originalMaxPositions;
        float smooth = (turns - (float) lowFreqFactor) / (float) (highFreqFactor - lowFreqFactor);
        return (1f - smooth) * frequency / (float) factor + smooth * frequency;
    }

    /** Reads either spelling: {@code rope_parameters}, or {@code rope_theta} with {@code rope_scaling}. */
    static RopeConfig read(JsonFile config) throws ModelFormatException {
        double theta = config.optionalDouble("rope_theta", DEFAULT_THETA);
        JsonFile scaling = config.optionalObject("rope_scaling");
        JsonFile parameters = config.optionalObject("rope_parameters");
        if (scaling != null && parameters != null && !scaling.fields().equals(parameters.fields())) {
            throw config.error("\"rope_scaling\" and \"rope_parameters\" disagree; keep one of them");
        }
        JsonFile rope = parameters != null ? parameters : scaling;
        try {
            if (rope == null) {
                return unscaled(theta);
            }
            theta = rope.optionalDouble("rope_theta", theta);
            String type = rope.optionalString("rope_type", rope.optionalString("type", Type.DEFAULT.toString()));
            if (rope.optionalDouble("partial_rotary_factor", 1) != 1) {
                throw config.error("rope with \"partial_rotary_factor\" " + rope.get("partial_rotary_factor")
                        + " is not supported; heads that turn wholly are (1.0)");
            }
            if (type.equals(Type.DEFAULT.toString())) {
                return unscaled(theta);
            }
            if (!type.equals(Type.LLAMA3.toString())) {
                throw config.error("rope type \"" + type + "\" is not supported; supported are default and llama3");
            }
            for (String field : new String[]{"factor", "low_freq_factor", "high_freq_factor",
                    "original_max_position_embeddings"}) {
                if (!rope.has(field)) {
                    throw config.error("rope type llama3 lacks \"" + field + "\"");
                }
            }
            return new RopeConfig(theta, Type.LLAMA3, rope.optionalDouble("factor", 0),
                    rope.optionalDouble("low_freq_factor", 0), rope.optionalDouble("high_freq_factor", 0),
                    rope.requiredInt("original_max_position_embeddings"));
        } catch (IllegalArgumentException e) {
            throw new ModelFormatException(config.file(), e.getMessage(), e);
        }
    }

    /** Writes these settings in the spelling that {@code config} has, or in the new one where it has none. */
    void write(ObjectNode config) {
        boolean old = !config.has("rope_parameters") && (config.has("rope_theta") || config.has("rope_scaling"));
        if (!old) {
            config.remove("rope_scaling");
            config.remove("rope_theta");
        }
        ObjectNode rope;
        if (old) {
            config.put("rope_theta", theta);
            if (type == Type.DEFAULT) {
                config.putNull("rope_scaling");
                return;
            }
            rope = config.get("rope_scaling") instanceof ObjectNode existing ? existing
                    : config.putObject("rope_scaling");
            rope.remove("type");
        } else {
            rope = config.get("rope_parameters") instanceof ObjectNode existing ? existing
                    : config.putObject("rope_parameters");
            rope.put("rope_theta", theta);
        }
        rope.put("rope_type", type.toString());
        if (type == Type.LLAMA3) {
            rope.put("factor", factor).put("low_freq_factor", lowFreqFactor).put("high_freq_factor", highFreqFactor)
                    .put("original_max_position_embeddings", originalMaxPositions);
        }
    }
}
