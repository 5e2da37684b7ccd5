package qlora4j.lora;

import java.util.ArrayList;
import java.util.Collection;
import java.util.List;
import java.util.TreeSet;

/**
 * Which modules get an adapter, by PEFT's rule for a list of names ({@code check_target_module_exists}): a module is
 * meant by a target that equals its path, or that is the end of its path after a dot.
 */
public final class TargetModules {
    private TargetModules() {
    }

    /** {@link #resolve(List, Collection)} of a config's targets. */
    public static List<String> resolve(LoraConfig config, Collection<String> linearModules) {
        return resolve(config.targetModules(), linearModules);
    }

    /**
     * The modules that get an adapter, in the order of {@code linearModules}.
     *
     * @param targets names, or {@link LoraConfig#ALL_LINEAR} alone for all of {@code linearModules}
     * @param linearModules paths of the model's linear layers, such as {@code model.layers.0.mlp.up_proj}, without the
     *     head
     * @throws IllegalArgumentException if a target means none of them
     */
    public static List<String> resolve(List<String> targets, Collection<String> linearModules) {
        if (targets.equals(List.of(LoraConfig.ALL_LINEAR))) {
            return List.copyOf(linearModules);
        }
        for (String target : targets) {
            if (linearModules.stream().noneMatch(path -> matches(target, path))) {
                throw new IllegalArgumentException("--target-modules: no linear layer is called " + target
                        + "; the names are " + names(linearModules) + ", or " + LoraConfig.ALL_LINEAR
                        + " for all of them");
            }
        }
        List<String> chosen = new ArrayList<>();
        for (String path : linearModules) {
            if (matchesAny(targets, path)) {
                chosen.add(path);
            }
        }
        return List.copyOf(chosen);
    }

    static boolean matchesAny(Collection<String> targets, String path) {
        return targets.stream().anyMatch(target -> matches(target, path));
    }

    private static boolean matches(String target, String path) {
        return path.equals(target) || path.endsWith("." + target);
    }

    /** The last parts of the modules' paths, sorted: the names that mean a module in every layer. */
    static List<String> names(Collection<String> paths) {
        TreeSet<String> names = new TreeSet<>();
        for (String path : paths) {
            names.add(path.substring(path.lastIndexOf('.') + 1));
        }
        return List.copyOf(names);
    }
}
