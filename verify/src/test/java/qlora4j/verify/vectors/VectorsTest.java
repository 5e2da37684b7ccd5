package qlora4j.verify.vectors;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
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

    @Test
    void everyFaultShowsInSomeOperation() throws IOException {
        Set<Fault> seen = new TreeSet<>();
        try (Safetensors vectors = Safetensors.open(BUNDLE.resolve(VectorBundle.TENSORS))) {
            for (Operation operation : operations()) {
                for (Fault fault : Fault.values()) {
                    Map<String, Tensor> spoiled = operation.compute(fault);
                    if (operation.outputs().stream().anyMatch(o -> Diagnosis.distance(spoiled.get(o.name()),
                            vectors.tensor(VectorBundle.output(operation, o.name())), o) > o.limit())) {
                        seen.add(fault);
                    }
                }
            }
        }
        assertThat(seen).containsExactly(Fault.values());
    }
}
