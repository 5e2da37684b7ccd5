package qlora4j.cli;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.TargetModules;
import qlora4j.lora.TrainableTokens;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamHyper.Formula;
import qlora4j.optim.Residency;
import qlora4j.optim.Schedule;
import qlora4j.train.Selection;
import qlora4j.train.TrainSettings;

/**
 * What is trained and how: the flags of Hugging Face's trainer and of PEFT, under their names. Defaults are those of
 * transformers' TrainingArguments, except for those that QLoRA has its own of.
 */
final class TrainOptions {
    private static final String SHOWN = " (default: ${DEFAULT-VALUE}).";
    private static final String OPTIM_8BIT = "paged_adamw_8bit";
    private static final Map<String, Formula> OPTIMIZERS = Map.of("paged_adamw_32bit", Formula.BITSANDBYTES,
            OPTIM_8BIT, Formula.BITSANDBYTES, "adamw_torch", Formula.TORCH);

    @Option(names = "--lora-r", paramLabel = "R", defaultValue = "64", description = "Rank of the adapters" + SHOWN)
    private int rank;

    @Option(names = "--lora-alpha", paramLabel = "X", defaultValue = "16",
            description = "Adapters are scaled by alpha / r" + SHOWN)
    private double alpha;

    @Option(names = "--lora-dropout", paramLabel = "P", defaultValue = "0.05",
            description = "Probability of dropping an adapter's input" + SHOWN)
    private double dropout;

    @Option(names = "--target-modules", paramLabel = "NAME", split = ",", arity = "1..*",
            defaultValue = LoraConfig.ALL_LINEAR, description = "Layers that get an adapter: names such as"
                    + " q_proj,v_proj, one regular expression for whole paths, or all-linear for every one but the head"
                    + SHOWN)
    private List<String> targets;

    @Option(names = "--exclude-modules", paramLabel = "NAME", split = ",", arity = "1..*",
            description = "Layers that get none, by name.")
    private List<String> exclude = List.of();

    @Option(names = "--layers-to-transform", paramLabel = "N", split = ",", arity = "1..*",
            description = "The only decoder layers whose modules get an adapter, counted from 0.")
    private List<Integer> layers = List.of();

    @Option(names = "--layers-pattern", paramLabel = "REGEX", split = ",", arity = "1..*",
            description = "What stands before a layer's number in a module's path.")
    private List<String> layersPattern = List.of();

    @Option(names = "--rank-pattern", paramLabel = "REGEX=R", split = ",", arity = "1..*",
            description = "Ranks of modules that differ from --lora-r, such as q_proj=8.")
    private Map<String, Integer> ranks = new LinkedHashMap<>();

    @Option(names = "--alpha-pattern", paramLabel = "REGEX=X", split = ",", arity = "1..*",
            description = "Alphas of modules that differ from --lora-alpha.")
    private Map<String, Double> alphas = new LinkedHashMap<>();

    @Option(names = "--use-rslora", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Scale by alpha / sqrt(r): rank-stabilized LoRA.")
    private boolean rsLora;

    @Option(names = "--use-dora", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Split each weight into magnitude and direction: DoRA. Costs one or two more products a layer.")
    private boolean dora;

    @Option(names = "--bias", paramLabel = "WHICH", defaultValue = "none",
            description = "Biases of the base model that are trained too: none, all or lora_only" + SHOWN)
    private String bias;

    @Option(names = "--modules-to-save", paramLabel = "NAME", split = ",", arity = "1..*",
            description = "Modules that are trained whole and saved with the adapter: embed_tokens, lm_head, norms.")
    private List<String> modulesToSave = List.of();

    @Option(names = "--init-lora-weights", paramLabel = "NAME", defaultValue = "true",
            description = "What adapters begin with: true (A uniform) or gaussian, B zero; pissa (the weights' principal"
                    + " part; pissa_niter_N: a fast decomposition in N rounds), or loftq (what quantizing loses)"
                    + SHOWN)
    private String init;

    @Option(names = "--loftq-iter", paramLabel = "N", defaultValue = "1",
            description = "Turns of loftq; with one the base stays as quantizing makes it" + SHOWN)
    private int loftqIterations;

    @Option(names = "--loraplus-lr-ratio", paramLabel = "X", defaultValue = "1",
            description = "What the learning rate of B is multiplied with: LoRA+" + SHOWN)
    private double loraPlus;

    @Option(names = {"--max-seq-length", "--max-length"}, paramLabel = "TOKENS", defaultValue = "512",
            description = "The most tokens of a row; longer ones lose the beginning of their prompt" + SHOWN)
    private int maxLength;

    @Option(names = "--per-device-train-batch-size", paramLabel = "ROWS", defaultValue = "8",
            description = "Rows that go through the model at once" + SHOWN)
    private int batch;

    @Option(names = "--gradient-accumulation-steps", paramLabel = "N", defaultValue = "1",
            description = "Such batches in a step" + SHOWN)
    private int accumulation;

    @Option(names = "--learning-rate", paramLabel = "RATE", defaultValue = "5e-5",
            description = "The schedule's highest" + SHOWN)
    private double learningRate;

    @Option(names = "--lr-scheduler-type", paramLabel = "NAME", defaultValue = "linear",
            description = "constant, constant_with_warmup, linear or cosine" + SHOWN)
    private String schedule;

    @Option(names = "--warmup-ratio", paramLabel = "SHARE", defaultValue = "0",
            description = "Share of the steps in which the rate rises" + SHOWN)
    private double warmupRatio;

    @Option(names = "--num-train-epochs", paramLabel = "N", defaultValue = "3",
            description = "Passes over the data" + SHOWN)
    private double epochs;

    @Option(names = "--max-steps", paramLabel = "N", defaultValue = "0",
            description = "Steps, whatever the number of epochs; 0: as many as the epochs take" + SHOWN)
    private int maxSteps;

    @Option(names = "--optim", paramLabel = "NAME", defaultValue = "paged_adamw_32bit",
            description = "paged_adamw_32bit (bitsandbytes' formula), paged_adamw_8bit (the same with moments in 8 bits)"
                    + " or adamw_torch" + SHOWN)
    private String optimizer;

    @Option(names = "--optim-resident", paramLabel = "SHARE|BYTES", defaultValue = "100%",
            description = "How much of the optimizer's state stays in memory, such as 50%% or 64MiB; the rest is paged"
                    + " to a file" + SHOWN)
    private String resident;

    @Option(names = "--weight-decay", paramLabel = "X", defaultValue = "0", description = "Of AdamW" + SHOWN)
    private double weightDecay;

    @Option(names = "--adam-beta1", paramLabel = "X", defaultValue = "0.9", description = "Of AdamW" + SHOWN)
    private double beta1;

    @Option(names = "--adam-beta2", paramLabel = "X", defaultValue = "0.999", description = "Of AdamW" + SHOWN)
    private double beta2;

    @Option(names = "--adam-epsilon", paramLabel = "X", defaultValue = "1e-8", description = "Of AdamW" + SHOWN)
    private double epsilon;

    @Option(names = "--max-grad-norm", paramLabel = "X", defaultValue = "1.0",
            description = "Gradients are clipped to this norm; Infinity: not" + SHOWN)
    private double maxGradNorm;

    @Option(names = "--gradient-checkpointing", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "Compute activations again in the backward pass instead of keeping them: less memory, the same"
                    + " numbers.")
    private boolean checkpointing;

    @Option(names = "--logging-steps", paramLabel = "N", defaultValue = "10",
            description = "Steps between lines of metrics" + SHOWN)
    private int loggingSteps;

    @Option(names = "--save-steps", paramLabel = "N", defaultValue = "500",
            description = "Steps between checkpoints; 0: none" + SHOWN)
    private int saveSteps;

    @Option(names = "--save-total-limit", paramLabel = "N", defaultValue = "0",
            description = "How many checkpoints are kept, the newest and always the best one; 0: all" + SHOWN)
    private int saveLimit;

    @Option(names = "--eval-steps", paramLabel = "N", defaultValue = "0",
            description = "Steps between evaluations; 0: only before the first and after the last" + SHOWN)
    private int evalSteps;

    @Option(names = "--seed", paramLabel = "N", defaultValue = "42",
            description = "Of the adapter's first values, of dropout, and of the order of rows" + SHOWN)
    private long seed;

    @Mixin
    private SelectionOptions selection;

    @Mixin
    private OffloadOptions offload;

    @Mixin
    private TokenOptions tokens;

    /** The adapter. */
    LoraConfig lora(String model) {
        boolean regex = targets.size() == 1 && !targets.getFirst().matches("[\\w.-]*");
        TargetModules chosen = new TargetModules(regex ? List.of() : targets, regex ? targets.getFirst() : null,
                exclude, null, layers, layersPattern);
        return new LoraConfig(rank, alpha, dropout, chosen, new LoraConfig.Patterns(ranks, alphas), rsLora, dora,
                LoraConfig.Bias.named(bias), modulesToSave, TrainableTokens.NONE,
                LoraConfig.Init.named(init, loftqIterations), model, seed);
    }

    /** Tokens that are added, and rows that are trained. */
    TokenOptions tokens() {
        return tokens;
    }

    /** The run. */
    TrainSettings settings() {
        Formula formula = OPTIMIZERS.get(optimizer);
        if (formula == null) {
            throw new IllegalArgumentException("--optim " + optimizer + ": expected paged_adamw_32bit,"
                    + " paged_adamw_8bit or adamw_torch");
        }
        Schedule shape = Schedule.named(schedule);
        if (shape == Schedule.CONSTANT && warmupRatio > 0) {
            Warnings.print(
                    "--warmup-ratio has no effect with --lr-scheduler-type constant; constant_with_warmup has it");
        }
        return selection.in(
                new TrainSettings(maxSteps, epochs, batch, accumulation, maxLength, learningRate, shape, warmupRatio,
                        maxGradNorm, new AdamHyper(formula, beta1, beta2, epsilon, weightDecay, 1,
                                optimizer.equals(OPTIM_8BIT)),
                        Residency.parse(resident),
                        checkpointing, loggingSteps, saveSteps, saveLimit, evalSteps, seed, loraPlus,
                        Selection.LAST, false, 0, offload.activations()));
    }

    /** The seed of everything random. */
    long seed() {
        return seed;
    }
}
