package qlora4j.bench.jmh;

import java.util.List;
import java.util.Set;
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
import qlora4j.bench.RandomBatch;
import qlora4j.bench.RandomWeights;
import qlora4j.bench.Shapes;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.Generator;
import qlora4j.model.SamplingConfig;
import qlora4j.train.TrainSettings;
import qlora4j.train.Trainer;
import qlora4j.train.data.GlobalBatch;

/**
 * A training step, a prompt of 512 tokens, and 128 tokens decoded after a prompt of 64, on random weights. With
 * {@code -prof gc} the first says what a step in its steady state allocates.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 2, time = 1)
@Measurement(iterations = 3, time = 1)
public class ModelBenchmark {
    static final int NEW_TOKENS = 128;

    @Param("smollm2-135m")
    String shape;
    @Param("4")
    int batch;
    @Param("256")
    int length;
    @Param("16")
    int rank;
    @Param("512")
    int prefill;
    @Param("64")
    int prompt;

    private Trainer trainer;
    private GlobalBatch step;
    private Generator generator;
    private int[] prefillTokens;
    private int[] promptTokens;

    @Setup
    public void setUp(Bed bed) {
        RandomWeights.Model model = bed
                .owned(RandomWeights.model(bed.backend, Shapes.named(shape), bed.dtype, QuantConfig.QLORA, 1));
        int vocab = model.decoder().config().vocab();
        Adapter adapter = bed.owned(Adapter.create(model.decoder(), 0,
                new LoraConfig(rank, rank, 0, List.of(LoraConfig.ALL_LINEAR), null, 1)));
        step = RandomBatch.of(vocab, batch, length);
        trainer = bed.owned(new Trainer(model.decoder(), adapter.parameters(), adapter.slot(), 0,
                TrainSettings.defaults().withBatch(batch, length), 1_000_000, RandomBatch.largest(step), null));
        generator = bed.owned(new Generator(model.decoder(), Math.max(prefill + 1, prompt + NEW_TOKENS)));
        prefillTokens = RandomBatch.tokens(vocab, prefill, 1);
        promptTokens = RandomBatch.tokens(vocab, prompt, 2);
    }

    @Benchmark
    public double trainingStep() {
        return trainer.step(step).loss();
    }

    @Benchmark
    public int[] prefill() {
        return generator.generate(prefillTokens, 1, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null);
    }

    /** The prompt is part of the time; {@code qlora bench decode} has it apart. */
    @Benchmark
    public int[] decode() {
        return generator.generate(promptTokens, NEW_TOKENS, SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null);
    }
}
