package qlora4j.verify;

import java.io.IOException;
import java.nio.file.FileVisitResult;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.SimpleFileVisitor;
import java.nio.file.attribute.BasicFileAttributes;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import qlora4j.tensor.Stream;

/**
 * Checks the checks. In a copy of a bundle every record is changed by three times what its check allows: exact ones by
 * a code, a last place, an id or a character. Each check must pass on the copy before and fail after. Records that a
 * check reads beside its own are changed in another pass, so that it fails for its own reason.
 */
final class SelfTest {
    /** How many limits a record is moved. */
    static final double LIMITS = 3;

    /** One way of changing the records. */
    private record Pass(String name, Perturbation perturbation) {
    }

    /** Changes the records of a bundle. */
    interface Perturbation {
        /** Changes files of the copy; the names of the checks that must fail now go to {@code checks}. */
        void apply(Path bundle, Set<String> checks) throws IOException;
    }

    private static final List<Pass> PASSES = List.of(new Pass("one code", KernelPerturbations::codes),
            new Pass("a constant's last place", KernelPerturbations::constants),
            new Pass("a value's last place", KernelPerturbations::values),
            new Pass("an offset", KernelPerturbations::offsets),
            new Pass("an optimizer's numbers", KernelPerturbations::optimizers),
            new Pass("a model's numbers and ids", ModelPerturbations::numbers),
            new Pass("later steps of a training", ModelPerturbations::laterSteps),
            new Pass("a mean difference", ModelPerturbations::means),
            new Pass("a 4-bit checkpoint", ModelPerturbations::checkpoints),
            new Pass("one character", TextPerturbations::characters), new Pass("one id", TextPerturbations::ids),
            new Pass("an error's character", TextPerturbations::errors));

    private final Conformance.Options options;
    private final Report report;

    private SelfTest(Conformance.Options options, Consumer<String> out) {
        this.options = options;
        this.report = new Report(out, _ -> true);
    }

    static Conformance.Summary run(Conformance.Options options, Consumer<String> out) throws IOException {
        SelfTest test = new SelfTest(options, out);
        Path copy = Files.createTempDirectory("qlora4j-verify");
        try {
            // A bundle that is one model's folder gives its checks that folder's name.
            Path bundle = copy.resolve(options.bundle().toRealPath().getFileName());
            copyTree(options.bundle().toRealPath(), bundle);
            test.leaveOut(bundle);
            test.all(bundle);
        } finally {
            deleteTree(copy);
        }
        return test.report.summary();
    }

    /** Takes real models out of the copy where they cannot be run. */
    private void leaveOut(Path bundle) throws IOException {
        String needs = RealModelChecks.needs(options);
        for (Path folder : needs.isEmpty() ? List.<Path>of() : ModelPerturbations.folders(bundle)) {
            if (RealModelChecks.describes(folder)) {
                report.notRun(folder.getFileName().toString(), needs);
                Files.delete(folder.resolve(TokenizerChecks.EXPECTED));
            }
        }
    }

    private void all(Path bundle) throws IOException {
        Map<Path, byte[]> original = read(bundle);
        Map<Pass, Set<String>> names = new LinkedHashMap<>();
        Set<String> every = new HashSet<>();
        for (Pass pass : PASSES) {
            Set<String> checks = new HashSet<>();
            pass.perturbation.apply(bundle, checks);
            restore(original);
            names.put(pass, checks);
            every.addAll(checks);
        }
        Map<String, Boolean> before = outcomes(bundle, every);
        for (Map.Entry<Pass, Set<String>> e : names.entrySet()) {
            if (!e.getValue().isEmpty()) {
                e.getKey().perturbation.apply(bundle, new HashSet<>());
                Map<String, Boolean> after = outcomes(bundle, e.getValue());
                restore(original);
                report(e.getKey(), e.getValue(), before, after);
            }
        }
    }

    private void report(Pass pass, Set<String> names, Map<String, Boolean> before, Map<String, Boolean> after) {
        report.check("self-test: " + pass.name, () -> {
            List<String> blind = new ArrayList<>();
            for (String name : names) {
                if (!before.containsKey(name) || !after.containsKey(name)) {
                    blind.add(name + " did not run");
                } else if (!before.get(name)) {
                    blind.add(name + " fails without it");
                } else if (after.get(name)) {
                    blind.add(name + " passes all the same");
                }
            }
            return new Outcome(blind.isEmpty(), names.size() - blind.size() + " of " + names.size()
                    + " checks see it" + (blind.isEmpty() ? "" : "; " + blind.getFirst()), "all");
        });
    }

    /** Runs the named checks; says of those that ran whether they passed. */
    private Map<String, Boolean> outcomes(Path bundle, Set<String> names) throws IOException {
        Map<String, Boolean> outcomes = new HashMap<>();
        Report inner = new Report(_ -> {
        }, name -> names.contains(name)) {
            @Override
            void finished(String name, Outcome outcome) {
                super.finished(name, outcome);
                outcomes.put(name, outcome.ok());
            }
        };
        try (Stream stream = options.backend().openStream()) {
            Conformance.run(new Session(options.backend(), stream, inner),
                    new Conformance.Options(bundle, options.backend(), options.model(), false));
        }
        return outcomes;
    }

    private static Map<Path, byte[]> read(Path bundle) throws IOException {
        Map<Path, byte[]> files = new LinkedHashMap<>();
        try (java.util.stream.Stream<Path> all = Files.walk(bundle)) {
            for (Path file : all.filter(Files::isRegularFile).toList()) {
                files.put(file, Files.readAllBytes(file));
            }
        }
        return files;
    }

    private static void restore(Map<Path, byte[]> files) throws IOException {
        for (Map.Entry<Path, byte[]> e : files.entrySet()) {
            if (!Arrays.equals(e.getValue(), Files.readAllBytes(e.getKey()))) {
                Files.write(e.getKey(), e.getValue());
            }
        }
    }

    private static void copyTree(Path from, Path to) throws IOException {
        try (java.util.stream.Stream<Path> all = Files.walk(from)) {
            for (Path source : all.toList()) {
                Path target = to.resolve(from.relativize(source).toString());
                if (Files.isDirectory(source)) {
                    Files.createDirectories(target);
                } else {
                    Files.write(target, Files.readAllBytes(source));
                }
            }
        }
    }

    private static void deleteTree(Path root) throws IOException {
        Files.walkFileTree(root, new SimpleFileVisitor<>() {
            @Override
            public FileVisitResult visitFile(Path file, BasicFileAttributes attributes) throws IOException {
                Files.delete(file);
                return FileVisitResult.CONTINUE;
            }

            @Override
            public FileVisitResult postVisitDirectory(Path directory, IOException e) throws IOException {
                if (e != null) {
                    throw e;
                }
                Files.delete(directory);
                return FileVisitResult.CONTINUE;
            }
        });
    }
}
