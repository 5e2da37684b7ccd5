package qlora4j.lora;

import java.util.ArrayList;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;

/**
 * Which modules get an adapter, by PEFT's rules ({@code check_target_module_exists} of release 0.21): a name means a
 * module whose path equals it or ends with it after a dot; a pattern means the modules whose whole path it matches.
 *
 * @param names of modules; {@link LoraConfig#ALL_LINEAR} alone for every linear layer but the head; empty where there
 *         is a pattern
 * @param pattern a regular expression in place of names, or null
 * @param exclude names of modules that are left out
 * @param excludePattern the same as a regular expression, or null
 * @param layers the only layers whose modules are taken; empty for all. As in PEFT it does not restrict a name that is
 *         a module's whole path, nor a pattern
 * @param layersPattern what stands before the layer's number in a path; empty for anything
 */
public record TargetModules(List<String> names, String pattern, List<String> exclude, String excludePattern,
        List<Integer> layers, List<String> layersPattern) {
    private static final String TARGETS = "--target-modules";
    private static final String EXCLUDE = "--exclude-modules";
    private static final String LAYERS_PATTERN = "--layers-pattern";

    /** Checks every field. */
    public TargetModules {
        names = List.copyOf(names);
        exclude = List.copyOf(exclude);
        layers = List.copyOf(layers);
        layersPattern = List.copyOf(layersPattern);
        if (names.isEmpty() == (pattern == null)) {
            throw new IllegalArgumentException(TARGETS + ": give " + LoraConfig.ALL_LINEAR
                    + ", at least one name, or one regular expression");
        }
        Set<String> seen = new HashSet<>();
        for (String target : names) {
            if (target.isBlank()) {
                throw new IllegalArgumentException(TARGETS + ": a name is empty in " + names);
            }
            if (!seen.add(target)) {
                throw new IllegalArgumentException(TARGETS + ": " + target + " is given twice");
            }
        }
        if (seen.contains(LoraConfig.ALL_LINEAR) && seen.size() > 1) {
            throw new IllegalArgumentException(TARGETS + ": " + LoraConfig.ALL_LINEAR
                    + " already stands for every linear layer; leave the other names out of " + names);
        }
        ModulePattern.check(TARGETS, pattern);
        ModulePattern.check(EXCLUDE, excludePattern);
        layersPattern.forEach(p -> ModulePattern.check(LAYERS_PATTERN, p));
        for (int layer : layers) {
            if (layer < 0) {
                throw new IllegalArgumentException("--layers-to-transform " + layer + ": layers count from 0");
            }
        }
        if (!layersPattern.isEmpty() && layers.isEmpty()) {
            throw new IllegalArgumentException("--layers-pattern has no effect without --layers-to-transform");
        }
    }

    /** Modules by name. */
    public static TargetModules named(List<String> names) {
        return new TargetModules(names, null, List.of(), null, List.of(), List.of());
    }

    /** Whether every linear layer is meant. */
    public boolean allLinear() {
        return names.equals(List.of(LoraConfig.ALL_LINEAR));
    }

    /** {@link #resolve(LoraConfig, Collection)} of names alone. */
    public static List<String> resolve(List<String> targets, Collection<String> linearModules) {
        return named(targets).among(linearModules, List.of());
    }

    /** The modules that get an adapter under a config. */
    public static List<String> resolve(LoraConfig config, Collection<String> linearModules) {
        return config.targets().among(linearModules, config.modulesToSave());
    }

    /**
     * The modules that get an adapter, in the order of {@code linearModules}.
     *
     * @param linearModules paths of the model's linear layers, such as {@code model.layers.0.mlp.up_proj}, without the
     *     head
     * @param saved modules that are trained whole: what lies in them gets no adapter
     * @throws IllegalArgumentException if a name means none of them, or nothing is left
     */
    public List<String> among(Collection<String> linearModules, Collection<String> saved) {
        for (String target : allLinear() ? List.<String>of() : names) {
            if (linearModules.stream().noneMatch(path -> ends(target, path))) {
                throw new IllegalArgumentException(TARGETS + ": no linear layer is called " + target
                        + "; the names are " + lastParts(linearModules) + ", or " + LoraConfig.ALL_LINEAR
                        + " for all of them");
            }
        }
        List<String> chosen = new ArrayList<>();
        for (String path : linearModules) {
            if (matches(path, saved)) {
                chosen.add(path);
            }
        }
        if (chosen.isEmpty()) {
            throw new IllegalArgumentException(TARGETS + (pattern == null ? "" : " " + pattern)
                    + ": no linear layer is left; their paths are such as " + linearModules.iterator().next()
                    + (layers.isEmpty() ? "" : ", --layers-to-transform is " + layers)
                    + (exclude.isEmpty() && excludePattern == null ? "" : ", and some are excluded"));
        }
        return List.copyOf(chosen);
    }

    /** Whether the module at {@code path} gets an adapter. */
    boolean matches(String path, Collection<String> saved) {
        if (excludePattern != null && ModulePattern.whole(EXCLUDE, excludePattern, path) != null
                || exclude.stream().anyMatch(e -> ends(e, path))) {
            return false;
        }
        for (String module : saved) {
            if (ModulePattern.beginning("--modules-to-save", "(^|.*\\.)", module, "($|\\..*)", path) != null) {
                return false;
            }
        }
        if (pattern != null) {
            return ModulePattern.whole(TARGETS, pattern, path) != null;
        }
        if (names.contains(path)) {
            return true;
        }
        return (allLinear() || names.stream().anyMatch(n -> ends(n, path))) && (layers.isEmpty() || inLayers(path));
    }

    private boolean inLayers(String path) {
        for (String before : layersPattern.isEmpty() ? List.of("[^.]*") : layersPattern) {
            Matcher m =
                    ModulePattern.beginning(LAYERS_PATTERN, "(?:^|.*?\\.)", before, "\\.(?<layer>\\d{1,9})\\.", path);
            if (m != null) {
                return layers.contains(Integer.parseInt(m.group("layer")));
            }
        }
        return false;
    }

    private static boolean ends(String name, String path) {
        return path.equals(name) || path.endsWith("." + name);
    }

    /** The last parts of the modules' paths, sorted: the names that mean a module in every layer. */
    static List<String> lastParts(Collection<String> paths) {
        TreeSet<String> names = new TreeSet<>();
        for (String path : paths) {
            names.add(path.substring(path.lastIndexOf('.') + 1));
        }
        return List.copyOf(names);
    }

    @Override
    public String toString() {
        return (pattern == null ? String.join(",", names) : pattern) + (layers.isEmpty() ? "" : " in layers " + layers)
                + (exclude.isEmpty() ? "" : " without " + String.join(",", exclude))
                + (excludePattern == null ? "" : " without " + excludePattern);
    }
}
