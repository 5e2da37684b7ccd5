package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.tngtech.archunit.core.domain.JavaClass;
import com.tngtech.archunit.core.domain.JavaClasses;
import com.tngtech.archunit.core.importer.ClassFileImporter;
import com.tngtech.archunit.core.importer.ImportOption;
import com.tngtech.archunit.lang.ArchRule;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.jupiter.api.Named;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;

/** The project keeps its {@link HouseRules}, and each of them can fail. */
class HouseRulesTest {

    private static final String BROKEN = HouseRulesTest.class.getPackageName() + ".brokenhouse";

    private static final JavaClasses PROJECT = new ClassFileImporter()
            .withImportOption(ImportOption.Predefined.DO_NOT_INCLUDE_TESTS).importPackages("qlora4j");

    private static final JavaClasses BROKEN_HOUSE = new ClassFileImporter().importPackages(BROKEN);

    static Stream<Named<ArchRule>> rules() {
        HouseRules house = new HouseRules("qlora4j");
        Stream<ArchRule> directions = HouseRules.DEPENDS_ON.keySet().stream().sorted().map(house::direction);
        Stream<ArchRule> others = Stream.of(house.everyModuleIsKnown(), house.noCycles(),
                house.arrowStaysInSafetensors(), house.tokenizersStayInModel(), house.commandLineStaysInCli(),
                house.jcudaStaysInCuda(), house.filesOfRowsStayInTrain(),
                house.vectorApiStaysInKernels());
        return Stream.concat(directions, others).map(rule -> Named.of(rule.getDescription(), rule));
    }

    @ParameterizedTest
    @MethodSource("rules")
    void holds(ArchRule rule) {
        rule.check(PROJECT);
    }

    static Stream<Arguments> broken() {
        HouseRules house = new HouseRules(BROKEN);
        return Stream.of(
                Arguments.of(house.direction("nf4"), "nf4.ReachesUp"),
                Arguments.of(house.direction("verify"), "verify.ReachesCli"),
                Arguments.of(house.everyModuleIsKnown(), "stray.Unknown"),
                Arguments.of(house.noCycles(), "Cycle detected"),
                Arguments.of(house.arrowStaysInSafetensors(), "nf4.SpeaksArrow"),
                Arguments.of(house.tokenizersStayInModel(), "nf4.SpeaksTokenizers"),
                Arguments.of(house.filesOfRowsStayInTrain(), "nf4.SpeaksParquet"),
                Arguments.of(house.jcudaStaysInCuda(), "nf4.SpeaksJcuda"),
                Arguments.of(house.commandLineStaysInCli(), "nf4.SpeaksPicocli"),
                Arguments.of(house.commandLineStaysInCli(), "nf4.SpeaksProgressBar"),
                Arguments.of(house.vectorApiStaysInKernels(), "nf4.SpeaksVectors"));
    }

    @ParameterizedTest
    @MethodSource("broken")
    void canFail(ArchRule rule, String offender) {
        assertThatThrownBy(() -> rule.check(BROKEN_HOUSE)).isInstanceOf(AssertionError.class)
                .hasMessageContaining(offender);
    }

    @Test
    void allowsWhatItAllows() {
        HouseRules house = new HouseRules(BROKEN);
        house.direction("model").check(BROKEN_HOUSE);
        assertThatThrownBy(() -> house.vectorApiStaysInKernels().check(BROKEN_HOUSE))
                .message().doesNotContain("VectorInnocent");
    }

    /** Were a module's classes not seen, its rules would hold of nothing. */
    @Test
    void seesEveryModuleThatHasCode() {
        Set<String> seen = PROJECT.stream().map(JavaClass::getPackageName).map(name -> name.split("\\.")[1])
                .collect(Collectors.toSet());
        assertThat(seen).containsAll(HouseRules.DEPENDS_ON.keySet().stream()
                .filter(module -> Files.isDirectory(Path.of("..", module, "src", "main", "java"))).toList());
    }
}
