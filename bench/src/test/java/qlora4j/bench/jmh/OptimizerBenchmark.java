package qlora4j.bench.jmh;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.Warmup;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamW;
import qlora4j.optim.FilePageStore;
import qlora4j.optim.Residency;
import qlora4j.tensor.ParameterStore;

/** Clipping and AdamW over an adapter's parameters, with all, half and none of the states resident. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class OptimizerBenchmark {
    /** Parameters: SmolLM2-135M's adapter of r = 16. */
    @Param("4884480")
    int parameters;
    @Param({"100%", "50%", "0%"})
    String resident;

    private AdamW adam;

    @Setup
    public void setUp(Bed bed) throws IOException {
        Path folder = Files.createTempDirectory("qlora4j-bench");
        bed.owned(() -> Files.delete(folder));
        ParameterStore store = bed.owned(ParameterStore.builder().add("all", parameters).build(bed.backend));
        store.flatParams().copyFrom(bed.random(store.flatSize()));
        store.flatGrads().copyFrom(bed.random(store.flatSize()));
        adam = bed.owned(new AdamW(bed.backend, store,
                Map.of(ParameterStore.DEFAULT_GROUP, AdamHyper.defaults(AdamHyper.Formula.BITSANDBYTES)),
                Residency.parse(resident), FilePageStore.in(folder)));
    }

    @Benchmark
    public double step(Bed bed) {
        adam.prepare(1e-5, 1);
        adam.clip(bed.stream, 0.3);
        adam.update(bed.stream);
        return adam.gradNorm();
    }
}
