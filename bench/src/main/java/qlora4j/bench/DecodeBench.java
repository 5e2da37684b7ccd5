package qlora4j.bench;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.function.Consumer;
import java.util.stream.IntStream;
import qlora4j.bench.Ceilings.Bound;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Adapter;
import qlora4j.model.BatchGenerator;
import qlora4j.model.BatchGenerator.Request;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.model.Generator;
import qlora4j.model.SamplingConfig;

/**
 * Generation: a prompt (prefill), then greedy tokens one by one, by the base and by an adapter; and tokens of several
 * sequences at once, by the base and by both in one batch.
 */
final class DecodeBench {
    /** Texts that are written before the one that counts: the JVM's compiler is at work in the first two. */
    private static final int WARM_TEXTS = 2;
    /** Sequences of a batch. */
    private static final int ROWS = 8;

    private final Decoder decoder;
    private final BenchSettings config;
    private final Ceilings ceilings;
    private final Consumer<Figure> report;
    private final int threads;

    DecodeBench(Decoder decoder, BenchSettings config, Ceilings ceilings, Consumer<Figure> report) {
        this.decoder = decoder;
        this.config = config;
        this.ceilings = ceilings;
        this.report = report;
        threads = BenchRun.threads(decoder.backend());
    }

    void run(Adapter adapter) {
        prefill();
        decode("decode", "greedy decode, prompt " + config.prompt(), List.of(Adapters.NONE));
        if (adapter != null) {
            decode("decode.adapter", "the same with an adapter, r = " + config.rank(), List.of(adapter.use()));
        }
        decode("decode.batch", "greedy decode of " + ROWS + " sequences at once",
                Collections.nCopies(ROWS, Adapters.NONE));
        if (adapter != null) {
            decode("decode.batch.adapters", "the same, every second one with the adapter",
                    IntStream.range(0, ROWS).mapToObj(i -> i % 2 == 0 ? Adapters.NONE : adapter.use()).toList());
        }
    }

    /** Time to the first token of a prompt: prompts differ, so that nothing can be kept from the last. */
    private void prefill() {
        DecoderConfig c = decoder.config();
        try (Generator generator = new Generator(decoder, config.prefill() + 1)) {
            int[] item = {0};
            Timing t = Timing.of(() -> generator.generate(RandomBatch.tokens(c.vocab(), config.prefill(), item[0]++), 1,
                    SamplingConfig.GREEDY, Adapters.NONE, Set.of(), null), () -> {
                    }, 2 * config.seconds());
            double work = Work.prefill(c, config.prefill());
            report.accept(Figure.rate("prefill", "prefill of " + config.prefill() + ", one token chosen", threads, t,
                    config.prefill(), "tok/s", work, Bound.FLOPS, ceilings.flops())
                    .with("gflop_per_s", work / 1e9 / t.median()));
        }
    }

    /** @param adapters of each sequence */
    private void decode(String id, String what, List<Adapters> adapters) {
        DecoderConfig c = decoder.config();
        int rows = adapters.size();
        List<Request> requests = IntStream.range(0, rows).mapToObj(i -> new Request(
                RandomBatch.tokens(c.vocab(), config.prompt(), i), SamplingConfig.GREEDY, adapters.get(i))).toList();
        try (BatchGenerator generator = new BatchGenerator(decoder, rows, config.prompt() + config.newTokens())) {
            // The compiler knows most of a batch's code by then.
            for (int text = 0; text < (rows == 1 ? WARM_TEXTS : 1); text++) {
                tokens(generator, requests, 2 * config.seconds(), new ArrayList<>());
            }
            List<Long> heap = new ArrayList<>();
            List<Double> seconds = tokens(generator, requests, 4 * config.seconds(), heap);
            Timing t = Timing.of(seconds);
            // All tokens count, slow ones too: the mean, not the median.
            double mean = seconds.stream().mapToDouble(Double::doubleValue).average().orElseThrow();
            long linear = decoder.linears().values().stream().mapToLong(l -> l.weight().bytes()).sum();
            double cached = config.prompt() + seconds.size() / 2.0;
            int type = decoder.type().bytes();
            double bytes = Work.decodeBytes(c, linear, decoder.headBytes(), type, cached)
                    + (rows - 1) * Work.decodeBytes(c, 0, 0, type, cached);
            Timing whole = new Timing(mean, t.best(), t.samples());
            report.accept(Figure.rate(id, what + ", " + (seconds.size() + 1) + " new", threads, whole, rows, "tok/s",
                    bytes, Bound.READ, ceilings.read()).with("median_ms", 1e3 * t.median()));
            if (Heap.isKnown(heap)) {
                report.accept(Heap.figure(id + ".heap", rows == 1 ? "a token" : "a token of each", heap));
            }
        }
    }

    /** Seconds from each token to the next, until the tokens or about the time are used up; at least two tokens. */
    private List<Double> tokens(BatchGenerator generator, List<Request> requests, double limit, List<Long> heap) {
        List<Double> seconds = new ArrayList<>();
        long[] at = {0, 0};
        boolean[] goOn = {true};
        generator.generate(requests, config.newTokens(), Set.of(), (row, _) -> {
            if (row > 0) {
                return goOn[0];
            }
            long now = System.nanoTime();
            if (at[0] == 0) {
                at[0] = now;
            } else {
                seconds.add((now - at[1]) / 1e9);
            }
            at[1] = now;
            heap.add(Heap.allocated());
            goOn[0] = seconds.isEmpty() || (now - at[0]) / 1e9 < limit;
            return goOn[0];
        });
        return seconds;
    }
}
