package qlora4j.verify.vectors;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.Tensor;

/** The committed vectors are what the scalar backend makes, and the verdict finds every planted mistake. */
class VectorsTest {
    /** The committed bundle. */
    private static final Path BUNDLE = Path.of("vectors");

    @TempDir
    Path directory;

    static List<Operation> operations() {
        return Operations.inOrder();
    }

    @Test
    void theCommittedBundleIsMadeAnewBitForBit() throws IOException {
        try (Backend scalar = Backends.open(Backend.SCALAR)) {
            VectorBundle.write(directory, scalar);
        }
        for (String file : List.of(VectorBundle.MANIFEST, VectorBundle.TENSORS)) {
            assertThat(directory.resolve(file)).as("./qlora vectors verify/vectors writes it")
                    .hasSameBinaryContentAs(BUNDLE.resolve(file));
        }
        assertThat(Files.size(BUNDLE.resolve(VectorBundle.TENSORS))).isLessThan(4 << 20);
    }

    /** The plain definitions and the kernels are two implementations. */
    @ParameterizedTest
    @MethodSource("operations")
    void thePlainDefinitionGivesTheVectors(Operation operation) throws IOException {
        Map<String, Tensor> plain = operation.compute((Fault) null);
        try (Safetensors vectors = Safetensors.open(BUNDLE.resolve(VectorBundle.TENSORS))) {
            for (Operation.Output output : operation.outputs()) {
                Tensor recorded = vectors.tensor(VectorBundle.output(operation, output.name()));
                assertThat(Diagnosis.distance(plain.get(output.name()), recorded, output)).as(output.name())
                        .isLessThanOrEqualTo(output.limit());
            }
        }
    }

    @Test
    void theVectorBackendAgrees() throws IOException {
        Path dump = directory.resolve("dump.safetensors");
        try (Backend cpu = Backends.open(Backend.CPU)) {
            VectorBundle.dump(dump, cpu);
        }
        Verdict verdict = Verdict.of(dump, BUNDLE);
        assertThat(VerdictText.lines(verdict)).noneMatch(line -> line.startsWith("DIFFERS"));
        assertThat(verdict.count(Verdict.Status.MISSING)).isZero();
        assertThat(VerdictText.agrees(verdict)).isTrue();
    }

    /** Plants each mistake in each operation that it changes: the verdict must name it at the first tensor it spoils. */
    @ParameterizedTest
    @MethodSource("operations")
    void everyPlantedMistakeIsNamed(Operation operation) throws IOException {
        for (Fault fault : Fault.values()) {
            Map<String, Tensor> spoiled = operation.compute(fault);
            Path dump = directory.resolve(operation.name() + "." + fault.id() + ".safetensors");
            SafetensorsWriter writer = new SafetensorsWriter();
            spoiled.forEach((name, t) -> writer.add(VectorBundle.output(operation, name), t));
            writer.write(dump);
            Verdict verdict = Verdict.of(dump, BUNDLE);
            if (verdict.first() != null) {
                assertThat(verdict.first().explanation().findings()).as(verdict.first().name()).contains(fault.id());
            }
        }
    }

    /** Section 9 of the specification lists each mistake with the first tensor that shows it; none shows nowhere. */
    @Test
    void theSpecificationListsEveryMistake() throws IOException {
        List<String> rows = new ArrayList<>();
        try (Safetensors vectors = Safetensors.open(BUNDLE.resolve(VectorBundle.TENSORS))) {
            List<Operation> all = operations();
            for (Fault fault : Fault.values()) {
                rows.add("| `" + fault.id() + "` | `" + firstSpoiled(all, fault, vectors) + "` | " + fault.explanation()
                        + " |");
            }
        }
        String specification = Files.readString(Path.of("SPEC.md"));
        String section = specification.substring(specification.indexOf("\n## 9."), specification.indexOf("\n## 10."));
        assertThat(section.lines().filter(line -> line.startsWith("| `"))).containsExactlyElementsOf(rows);
    }

    private static String firstSpoiled(List<Operation> all, Fault fault, Safetensors vectors) {
        for (Operation operation : all) {
            Map<String, Tensor> spoiled = operation.compute(fault);
            for (Operation.Output output : operation.outputs()) {
                String name = VectorBundle.output(operation, output.name());
                if (Diagnosis.distance(spoiled.get(output.name()), vectors.tensor(name), output) > output.limit()) {
                    return name;
                }
            }
        }
        throw new AssertionError(fault + " shows in no tensor");
    }
}
