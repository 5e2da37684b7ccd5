package qlora4j.lora;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.regex.Pattern;

/**
 * What an adapter is: PEFT's {@code LoraConfig} as far as it is supported.
 *
 * @param rank r, the inner dimension of {@code B·A} (Hu et al. 2021, section 4.1): 1 or more
 * @param alpha the numerator of the scale; positive
 * @param dropout probability of dropping an element of an adapter's input in training, in [0, 1)
 * @param targets the modules that get an adapter
 * @param patterns modules whose rank or alpha differs
 * @param rsLora whether the scale is {@code alpha / √r} instead of {@code alpha / r} (Kalajdzievski 2023)
 * @param dora whether the weight is split into magnitude and direction (Liu et al. 2024)
 * @param bias the biases of the base model that are trained too
 * @param modulesToSave modules that are trained whole, by name: the embedding, the head, norms
 * @param tokens rows of the embedding and of the head that are trained and saved with the adapter
 * @param init the initial values
 * @param baseModelName the base model's name or path, recorded for PEFT; null where unknown
 * @param seed of the initial values and of dropout; PEFT's files do not record it, so it is 0 in a config that was read
 */
public record LoraConfig(int rank, double alpha, double dropout, TargetModules targets, Patterns patterns,
        boolean rsLora, boolean dora, Bias bias, List<String> modulesToSave, TrainableTokens tokens, Init init,
        String baseModelName, long seed) {
    /** The target that stands for every linear layer but the head. */
    public static final String ALL_LINEAR = "all-linear";

    /** Which of the base model's biases are trained, and saved with the adapter. */
    public enum Bias {
        NONE, ALL,
        /** Those of the layers that have an adapter. */
        LORA_ONLY;

        /** As {@code adapter_config.json} spells it. */
        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }

        /** The one that is spelled so. */
        public static Bias named(String text) {
            for (Bias b : values()) {
                if (b.toString().equals(text)) {
                    return b;
                }
            }
            throw new IllegalArgumentException("--bias " + text + ": expected none, all or lora_only");
        }
    }

    /**
     * What a new adapter begins with; spelled as PEFT's {@code init_lora_weights}.
     *
     * @param kind how
     * @param iterations of LoftQ, 1 or more; of PiSSA's fast decomposition, 0: the exact one; else 0
     */
    public record Init(Kind kind, int iterations) {
        /** PEFT's default. */
        public static final Init KAIMING = new Init(Kind.TRUE, 0);
        private static final Pattern FAST = Pattern.compile("pissa_niter_(\\d{1,4})");

        /** The ways to begin. */
        public enum Kind {
            /** A uniform in ±1/√in, B zero. */
            TRUE,
            /** A normal with deviation 1/r, B zero. */
            GAUSSIAN,
            /** The principal singular vectors; the base keeps the rest (Meng et al. 2024). */
            PISSA,
            /** The principal singular vectors of what quantizing loses, in turns with quantizing (Li et al. 2023). */
            LOFTQ
        }

        public Init {
            if (iterations < 0 || kind == Kind.LOFTQ && iterations < 1) {
                throw new IllegalArgumentException("--loftq-iter " + iterations + ": must be at least 1");
            }
        }

        /** Whether the dense weights are needed. */
        public boolean needsWeights() {
            return kind == Kind.PISSA || kind == Kind.LOFTQ;
        }

        /** Whether the base model becomes another one; one turn of LoftQ leaves it as quantizing makes it. */
        public boolean changesBase() {
            return kind == Kind.PISSA || kind == Kind.LOFTQ && iterations > 1;
        }

        @Override
        public String toString() {
            return kind.name().toLowerCase(Locale.ROOT)
                    + (kind == Kind.PISSA && iterations > 0 ? "_niter_" + iterations : "")
                    + (kind == Kind.LOFTQ && iterations > 1 ? " in " + iterations + " turns" : "");
        }

        /**
         * The one that {@code --init-lora-weights} calls so.
         *
         * @param loftqIterations the turns of LoftQ
         */
        public static Init named(String text, int loftqIterations) {
            String name = text.toLowerCase(Locale.ROOT);
            var fast = FAST.matcher(name);
            if (fast.matches()) {
                return new Init(Kind.PISSA, Math.max(1, Integer.parseInt(fast.group(1))));
            }
            return switch (name) {
                case "true" -> KAIMING;
                case "gaussian" -> new Init(Kind.GAUSSIAN, 0);
                case "pissa" -> new Init(Kind.PISSA, 0);
                case "loftq" -> new Init(Kind.LOFTQ, loftqIterations);
                default -> throw new IllegalArgumentException("--init-lora-weights " + text
                        + ": expected true, gaussian, pissa, pissa_niter_N (a fast decomposition in N rounds) or loftq");
            };
        }
    }

    /**
     * Ranks and alphas of modules that differ from the config's. A key is a regular expression for the end of a
     * module's path; the first key that matches counts.
     *
     * @param rank by key
     * @param alpha by key
     */
    public record Patterns(Map<String, Integer> rank, Map<String, Double> alpha) {
        public static final Patterns NONE = new Patterns(Map.of(), Map.of());
        private static final String RANK_PATTERN = "--rank-pattern";
        private static final String ALPHA_PATTERN = "--alpha-pattern";

        public Patterns {
            rank = Collections.unmodifiableMap(new LinkedHashMap<>(rank));
            alpha = Collections.unmodifiableMap(new LinkedHashMap<>(alpha));
            rank.forEach((key, r) -> checkRank(RANK_PATTERN + " " + key + "=", r));
            alpha.forEach((key, a) -> checkAlpha(ALPHA_PATTERN + " " + key + "=", a));
            rank.keySet().forEach(key -> ModulePattern.check(RANK_PATTERN, key));
            alpha.keySet().forEach(key -> ModulePattern.check(ALPHA_PATTERN, key));
        }

        public boolean isEmpty() {
            return rank.isEmpty() && alpha.isEmpty();
        }

        private static <V> V of(String flag, Map<String, V> values, String module, V otherwise) {
            for (Map.Entry<String, V> e : values.entrySet()) {
                if (ModulePattern.beginning(flag, "(.*\\.)?(", e.getKey(), ")$", module) != null) {
                    return e.getValue();
                }
            }
            return otherwise;
        }
    }

    /**
     * Checks every field.
     *
     * @throws IllegalArgumentException naming the flag that is wrong
     */
    public LoraConfig {
        checkRank("--lora-r ", rank);
        checkAlpha("--lora-alpha ", alpha);
        if (!(dropout >= 0 && dropout < 1)) {
            throw new IllegalArgumentException("--lora-dropout " + dropout + ": must be at least 0 and below 1");
        }
        modulesToSave = List.copyOf(modulesToSave);
        if (dora && init.needsWeights()) {
            throw new IllegalArgumentException("--use-dora and --init-lora-weights " + init
                    + " do not go together: DoRA's magnitudes are those of the whole weight");
        }
        for (String module : tokens.indices().keySet()) {
            if (modulesToSave.stream().anyMatch(module::endsWith)) {
                throw new IllegalArgumentException("--modules-to-save " + module + " trains all rows of it;"
                        + " trainable_token_indices of it would train some of them once more");
            }
        }
    }

    private static void checkRank(String flag, int rank) {
        if (rank < 1) {
            throw new IllegalArgumentException(flag + rank + ": must be at least 1");
        }
    }

    private static void checkAlpha(String flag, double alpha) {
        if (!(alpha > 0 && alpha < Double.POSITIVE_INFINITY)) {
            throw new IllegalArgumentException(flag + alpha + ": must be a positive number");
        }
    }

    /** Plain LoRA on modules by name. */
    public LoraConfig(int rank, double alpha, double dropout, List<String> targetModules, String baseModelName,
            long seed) {
        this(rank, alpha, dropout, TargetModules.named(targetModules), Patterns.NONE, false, false, Bias.NONE,
                List.of(), TrainableTokens.NONE, Init.KAIMING, baseModelName, seed);
    }

    /** The rank of a module's adapter. */
    public int rank(String module) {
        return Patterns.of(Patterns.RANK_PATTERN, patterns.rank, module, rank);
    }

    /** What {@code B·A·x} of a module is multiplied with: alpha / r, or alpha / √r. */
    public double scale(String module) {
        double a = Patterns.of(Patterns.ALPHA_PATTERN, patterns.alpha, module, alpha);
        int r = rank(module);
        return rsLora ? a / Math.sqrt(r) : a / r;
    }

    /** The same on other modules. */
    public LoraConfig withTargets(TargetModules other) {
        return new LoraConfig(rank, alpha, dropout, other, patterns, rsLora, dora, bias, modulesToSave, tokens, init,
                baseModelName, seed);
    }

    /** The same with ranks and alphas of their own. */
    public LoraConfig withPatterns(Map<String, Integer> ranks, Map<String, Double> alphas) {
        return new LoraConfig(rank, alpha, dropout, targets, new Patterns(ranks, alphas), rsLora, dora, bias,
                modulesToSave, tokens, init, baseModelName, seed);
    }

    /** The same with or without rank-stabilized scales and DoRA. */
    public LoraConfig withVariant(boolean stabilized, boolean decomposed) {
        return new LoraConfig(rank, alpha, dropout, targets, patterns, stabilized, decomposed, bias, modulesToSave,
                tokens, init, baseModelName, seed);
    }

    /** The same with biases and whole modules trained too. */
    public LoraConfig withTrained(Bias biases, List<String> modules) {
        return new LoraConfig(rank, alpha, dropout, targets, patterns, rsLora, dora, biases, modules, tokens, init,
                baseModelName, seed);
    }

    /** The same with other rows of the embedding and of the head. */
    public LoraConfig withTokens(TrainableTokens other) {
        return new LoraConfig(rank, alpha, dropout, targets, patterns, rsLora, dora, bias, modulesToSave, other, init,
                baseModelName, seed);
    }

    /** The same with another rank. */
    public LoraConfig withRank(int other) {
        return new LoraConfig(other, alpha, dropout, targets, patterns, rsLora, dora, bias, modulesToSave, tokens, init,
                baseModelName, seed);
    }

    /** The same with other initial values. */
    public LoraConfig withInit(Init other) {
        return new LoraConfig(rank, alpha, dropout, targets, patterns, rsLora, dora, bias, modulesToSave, tokens, other,
                baseModelName, seed);
    }

    /**
     * The config of an adapter {@code [A; A₀]}, {@code [B, -B₀]} of twice the rank: the same scale in every module, begun
     * in the plain way. PEFT's {@code save_pretrained(path_initial_model_for_weight_conversion=...)} writes the same.
     */
    public LoraConfig forOriginalBase() {
        double factor = rsLora ? Math.sqrt(2) : 2;
        Map<String, Integer> ranks = new LinkedHashMap<>();
        patterns.rank.forEach((key, r) -> ranks.put(key, 2 * r));
        Map<String, Double> alphas = new LinkedHashMap<>();
        patterns.alpha.forEach((key, a) -> alphas.put(key, factor * a));
        return new LoraConfig(2 * rank, factor * alpha, dropout, targets, new Patterns(ranks, alphas), rsLora, dora,
                bias, modulesToSave, tokens, Init.KAIMING, baseModelName, seed);
    }
}
