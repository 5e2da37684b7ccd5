package qlora4j.cli;

import static com.tngtech.archunit.base.DescribedPredicate.describe;
import static com.tngtech.archunit.base.DescribedPredicate.not;
import static com.tngtech.archunit.core.domain.JavaClass.Predicates.resideInAPackage;
import static com.tngtech.archunit.core.domain.JavaClass.Predicates.resideInAnyPackage;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.classes;
import static com.tngtech.archunit.lang.syntax.ArchRuleDefinition.noClasses;
import static com.tngtech.archunit.library.dependencies.SlicesRuleDefinition.slices;

import com.tngtech.archunit.base.DescribedPredicate;
import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.lang.ArchRule;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * What may depend on what, as rules over the packages below a root: {@code qlora4j} for the project itself, and that of
 * the {@link qlora4j.cli.brokenhouse fixtures} that break each rule once.
 */
record HouseRules(String root) {

    /** Each module and the modules it names as its dependencies; what these depend on is open to it too. */
    static final Map<String, Set<String>> DEPENDS_ON = Map.ofEntries(
            Map.entry("tensor", Set.of()),
            Map.entry("nf4", Set.of()),
            Map.entry("template", Set.of()),
            Map.entry("safetensors", Set.of("tensor")),
            Map.entry("blockwise", Set.of("tensor", "nf4", "safetensors")),
            Map.entry("optim", Set.of("tensor", "blockwise")),
            Map.entry("lora", Set.of("tensor", "blockwise", "safetensors")),
            Map.entry("model", Set.of("lora", "template")),
            Map.entry("gguf", Set.of("model")),
            Map.entry("hub", Set.of()),
            Map.entry("train", Set.of("model", "optim")),
            Map.entry("cuda", Set.of("tensor", "blockwise", "optim", "lora", "model")),
            Map.entry("verify", Set.of("train")),
            Map.entry("bench", Set.of("train")),
            Map.entry("cli", Set.of("train", "verify", "bench", "gguf", "hub")));

    /** Beside classes whose top-level name begins with Vector, those that may speak the Vector API. */
    private static final Set<String> VECTOR_HELPERS = Set.of("Lanes");

    /** A module's classes use their own module, and those that it may depend on. */
    ArchRule direction(String module) {
        return noClasses().that().resideInAPackage(in(module)).should().dependOnClassesThat(
                resideInAPackage(root + "..").and(not(resideInAnyPackage(packages(reachable(module))))))
                .because(module + " depends on " + DEPENDS_ON.get(module) + " and on what these depend on")
                .allowEmptyShould(true);
    }

    /** Every class lives in a module that {@link #DEPENDS_ON} knows: a new module states its dependencies. */
    ArchRule everyModuleIsKnown() {
        return classes().that().resideInAPackage(root + "..")
                .should().resideInAnyPackage(packages(DEPENDS_ON.keySet()));
    }

    ArchRule noCycles() {
        return slices().matching(root + ".(**)").should().beFreeOfCycles();
    }

    ArchRule arrowStaysInSafetensors() {
        return only("safetensors", "org.apache.arrow..");
    }

    ArchRule tokenizersStayInModel() {
        return only("model", "ai.djl..");
    }

    ArchRule filesOfRowsStayInTrain() {
        return only("train", "dev.hardwood..", "com.fasterxml.jackson.dataformat.csv..");
    }

    ArchRule jcudaStaysInCuda() {
        return only("cuda", "jcuda..");
    }

    ArchRule commandLineStaysInCli() {
        return only("cli", "picocli..", "me.tongfei.progressbar..", "org.jline..");
    }

    ArchRule vectorApiStaysInKernels() {
        return noClasses().that().resideInAPackage(root + "..").and(not(vectorKernels()))
                .should().dependOnClassesThat().resideInAPackage("jdk.incubator.vector..");
    }

    private ArchRule only(String module, String... libraries) {
        return noClasses().that().resideInAPackage(root + "..").and().resideOutsideOfPackage(in(module))
                .should().dependOnClassesThat().resideInAnyPackage(libraries);
    }

    private static DescribedPredicate<JavaClass> vectorKernels() {
        return describe("are Vector... or one of " + VECTOR_HELPERS, type -> {
            String name = topLevel(type).getSimpleName();
            return name.startsWith("Vector") || VECTOR_HELPERS.contains(name);
        });
    }

    private static JavaClass topLevel(JavaClass type) {
        return type.getEnclosingClass().map(HouseRules::topLevel).orElse(type);
    }

    private static Set<String> reachable(String module) {
        Set<String> reached = new HashSet<>(List.of(module));
        for (String next : DEPENDS_ON.get(module)) {
            reached.addAll(reachable(next));
        }
        return reached;
    }

    private String in(String module) {
        return root + "." + module + "..";
    }

    private String[] packages(Set<String> modules) {
        return modules.stream().map(this::in).toArray(String[]::new);
    }
}
