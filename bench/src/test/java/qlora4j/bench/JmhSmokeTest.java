package qlora4j.bench;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Collection;
import java.util.Set;
import java.util.TreeSet;
import java.util.stream.Collectors;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.options.OptionsBuilder;
import org.openjdk.jmh.runner.options.TimeValue;
import org.openjdk.jmh.runner.options.VerboseMode;

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
    void eachBenchmarkRuns() throws RunnerException {
        Collection<RunResult> results = new Runner(new OptionsBuilder().include("qlora4j\\.bench\\.jmh\\..*").forks(0)
                .warmupIterations(0).measurementIterations(1).measurementTime(TimeValue.milliseconds(1))
                .mode(Mode.SingleShotTime).shouldFailOnError(true).verbosity(VerboseMode.SILENT).shouldDoGC(false)
                .param("threads", "2").param("matrix", "96x512").param("m", "1", "64").param("shape", Shapes.TINY)
                .param("batch", "1").param("length", "16").param("prefill", "8").param("prompt", "4")
                .param("vocab", "512").param("parameters", "9000").param("elements", "64").build()).run();
        Set<String> ran = results.stream().map(r -> r.getParams().getBenchmark())
                .map(name -> name.substring(name.lastIndexOf('.', name.lastIndexOf('.') - 1) + 1))
                .collect(Collectors.toCollection(TreeSet::new));
        assertThat(ran).containsExactlyInAnyOrderElementsOf(BENCHMARKS);
    }
}
