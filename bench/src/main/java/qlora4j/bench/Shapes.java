package qlora4j.bench;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import java.util.Set;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderConfig.Architecture;
import qlora4j.model.RopeConfig;
import qlora4j.tensor.DType;

/** The shapes of published models, from their {@code config.json}: what a benchmark needs of them, without weights. */
public final class Shapes {
    /** A small one, of no published model: for checks that the scalar backend runs too. */
    public static final String TINY = "tiny";

    private static final Map<String, DecoderConfig> NAMED = new LinkedHashMap<>();

    static {
        NAMED.put(TINY, llama(256, 64, 128, 2, 2, 1, 32, 10_000, 4096, true));
        NAMED.put("smollm2-135m", llama(49_152, 576, 1536, 30, 9, 3, 64, 100_000, 8192, true));
        NAMED.put("smollm2-360m", llama(49_152, 960, 2560, 32, 15, 5, 64, 100_000, 8192, true));
        NAMED.put("tinyllama-1.1b", llama(32_000, 2048, 5632, 22, 32, 4, 64, 10_000, 2048, false));
        NAMED.put("llama-3.2-1b", llama(128_256, 2048, 8192, 16, 32, 8, 64, 500_000, 131_072, true));
        NAMED.put("llama-2-7b", llama(32_000, 4096, 11_008, 32, 32, 32, 128, 10_000, 4096, false));
        NAMED.put("mistral-7b", config(Architecture.MISTRAL, 32_000, 4096, 14_336, 32, 32, 8, 128, 10_000, 32_768,
                false, 4096));
        NAMED.put("llama-3-8b", llama(128_256, 4096, 14_336, 32, 32, 8, 128, 500_000, 8192, false));
        NAMED.put("llama-2-70b", llama(32_000, 8192, 28_672, 80, 64, 8, 128, 10_000, 4096, false));
    }

    private Shapes() {
    }

    private static DecoderConfig llama(int vocab, int hidden, int intermediate, int layers, int heads, int kvHeads,
            int headDim, double theta, int positions, boolean tied) {
        return config(Architecture.LLAMA, vocab, hidden, intermediate, layers, heads, kvHeads, headDim, theta,
                positions, tied, 0);
    }

    private static DecoderConfig config(Architecture architecture, int vocab, int hidden, int intermediate, int layers,
            int heads, int kvHeads, int headDim, double theta, int positions, boolean tied, int window) {
        return new DecoderConfig(architecture, vocab, hidden, intermediate, layers, heads, kvHeads, headDim, 1e-5,
                positions, tied, window, 0, RopeConfig.unscaled(theta), false, false, false, false, DType.F32,
                DecoderConfig.SILU,
                OptionalInt.empty(), List.of(), OptionalInt.empty(), null);
    }

    /** The names, in order of size. */
    public static Set<String> names() {
        return NAMED.keySet();
    }

    /** The shape called {@code name}; an error that lists the names when there is none. */
    public static DecoderConfig named(String name) {
        DecoderConfig config = NAMED.get(name);
        if (config == null) {
            throw new IllegalArgumentException("--shape " + name + ": expected one of " + String.join(", ", names())
                    + "; a model of your own is given with --model DIR");
        }
        return config;
    }
}
