package qlora4j.bench.jmh;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Collection;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.options.OptionsBuilder;
import org.openjdk.jmh.runner.options.TimeValue;
import qlora4j.bench.Shapes;

/** Each JMH benchmark runs, once, on a tiny size, in this JVM: its time means nothing. */
class JmhSmokeTest {
    private static final Set<String> BENCHMARKS = Set.of("AttentionBenchmark.backward", "AttentionBenchmark.forward",
            "JlamaBenchmark.matvec", "LayerBenchmark.crossEntropy", "LayerBenchmark.rmsNorm",
            "LayerBenchmark.rmsNormBackward", "LayerBenchmark.rope", "LayerBenchmark.swiglu", "ModelBenchmark.decode",
            "ModelBenchmark.prefill", "ModelBenchmark.trainingStep", "OpenBlasBenchmark.backward",
            "OpenBlasBenchmark.forward", "OptimizerBenchmark.step", "ProductBenchmark.backward",
            "ProductBenchmark.forward", "QuantizeBenchmark.dequantize", "QuantizeBenchmark.quantize",
            "SafetensorsBenchmark.open", "SafetensorsBenchmark.openAndRead");

    /** Nothing is timed here, so another JMH on this machine is no reason to fail: its lock is for measurements. */
    @BeforeAll
    static void withoutTheLock() {
        System.setProperty("jmh.ignoreLock", "true");
    }

    @Test
    void eachBenchmarkRuns(@TempDir Path folder) throws IOException {
        Path log = folder.resolve("jmh.log");
        Collection<RunResult> results;
        try {
            results = new Runner(new OptionsBuilder().include("qlora4j\\.bench\\.jmh\\..*").forks(0).warmupIterations(0)
                    .measurementIterations(1).measurementTime(TimeValue.milliseconds(1)).mode(Mode.SingleShotTime)
                    .shouldFailOnError(true).output(log.toString()).shouldDoGC(false).param("threads", "2")
                    .param("matrix", "96x512").param("m", "1", "64").param("shape", Shapes.TINY).param("batch", "1")
                    .param("length", "16").param("prefill", "8").param("prompt", "4").param("vocab", "512")
                    .param("parameters", "9000").param("elements", "64").build()).run();
        } catch (RunnerException e) {
            throw new AssertionError(Files.readString(log), e);
        }
        Set<String> ran = results.stream().map(r -> JmhMain.name(r.getParams()))
                .collect(Collectors.toCollection(TreeSet::new));
        assertThat(ran).containsExactlyInAnyOrderElementsOf(BENCHMARKS);
        List<String> lines = JmhMain.table(results);
        assertThat(lines).filteredOn(line -> line.contains(" thread") && line.contains("/s")).hasSameSizeAs(results)
                .filteredOn(line -> !line.endsWith(" %")).singleElement().asString()
                .startsWith("Safetensors.open ");
    }
}
