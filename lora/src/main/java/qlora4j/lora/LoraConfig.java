package qlora4j.lora;

import java.util.HashSet;
import java.util.List;
import java.util.Set;

/**
 * What an adapter is: the part of PEFT's {@code LoraConfig} that is supported. Biases are never trained
 * ({@code bias = "none"}).
 *
 * @param rank r, the inner dimension of {@code B·A} (Hu et al. 2021, section 4.1): 1 or more
 * @param alpha the numerator of the scale; positive
 * @param dropout probability of dropping an element of an adapter's input in training, in [0, 1)
 * @param targetModules the modules that get an adapter, as {@link TargetModules} matches them; {@link #ALL_LINEAR}
 *     alone for every linear layer but the head
 * @param baseModelName the base model's name or path, recorded for PEFT; null where unknown
 * @param seed of the initial A and of dropout; PEFT's files do not record it, so it is 0 in a config that was read
 */
public record LoraConfig(int rank, double alpha, double dropout, List<String> targetModules, String baseModelName,
        long seed) {
    /** The target that stands for every linear layer but the head. */
    public static final String ALL_LINEAR = "all-linear";

    /**
     * Checks every field.
     *
     * @throws IllegalArgumentException naming the flag that is wrong
     */
    public LoraConfig {
        if (rank < 1) {
            throw new IllegalArgumentException("--lora-r " + rank + ": must be at least 1");
        }
        if (!(alpha > 0 && alpha < Double.POSITIVE_INFINITY)) {
            throw new IllegalArgumentException("--lora-alpha " + alpha + ": must be a positive number");
        }
        if (!(dropout >= 0 && dropout < 1)) {
            throw new IllegalArgumentException("--lora-dropout " + dropout + ": must be at least 0 and below 1");
        }
        targetModules = List.copyOf(targetModules);
        if (targetModules.isEmpty()) {
            throw new IllegalArgumentException("--target-modules: give " + ALL_LINEAR + " or at least one name");
        }
        Set<String> seen = new HashSet<>();
        for (String target : targetModules) {
            if (target.isBlank()) {
                throw new IllegalArgumentException("--target-modules: a name is empty in " + targetModules);
            }
            if (!seen.add(target)) {
                throw new IllegalArgumentException("--target-modules: " + target + " is given twice");
            }
        }
        if (seen.contains(ALL_LINEAR) && seen.size() > 1) {
            throw new IllegalArgumentException("--target-modules: " + ALL_LINEAR
                    + " already stands for every linear layer; leave the other names out of " + targetModules);
        }
    }

    /** What {@code B·A·x} is multiplied with: alpha / r. */
    public double scale() {
        return alpha / rank;
    }

    /** Whether every linear layer gets an adapter. */
    public boolean allLinear() {
        return targetModules.equals(List.of(ALL_LINEAR));
    }
}
