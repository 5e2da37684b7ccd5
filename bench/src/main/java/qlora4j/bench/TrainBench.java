package qlora4j.bench;

import java.util.ArrayList;
import java.util.List;
import java.util.OptionalLong;
import java.util.function.Consumer;
import qlora4j.bench.Ceilings.Bound;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.train.TrainSettings;
import qlora4j.train.Trainer;
import qlora4j.train.data.GlobalBatch;

/** The QLoRA step: upload, forward, backward, clipping, AdamW, and reading the loss. */
final class TrainBench {
    private static final int LEAST = 3;
    private static final int MOST = 200;

    private TrainBench() {
    }

    static void run(Decoder decoder, Adapter adapter, BenchSettings config, Ceilings ceilings,
            Consumer<Figure> report) {
        GlobalBatch batch = RandomBatch.of(decoder.config().vocab(), config.batch(), config.length());
        Backend backend = decoder.backend();
        backend.ledger().resetPeak();
        TrainSettings settings = TrainSettings.defaults().withMaxSteps(MOST).withBatch(config.batch(), config.length())
                .withCheckpointing(config.checkpointing()).withResident(config.resident())
                .withOffloadActivations(config.offload());
        try (Trainer trainer = new Trainer(decoder, adapter.parameters(), adapter.slot(), config.dropout(), settings,
                MOST, RandomBatch.largest(batch), null)) {
            trainer.step(batch);
            List<Double> seconds = new ArrayList<>();
            List<Long> heap = new ArrayList<>(List.of(Heap.allocated()));
            long begin = System.nanoTime();
            while (seconds.size() < LEAST || Timing.since(begin) < 3 * config.seconds() && seconds.size() < MOST - 1) {
                long start = System.nanoTime();
                trainer.step(batch);
                seconds.add(Timing.since(start));
                heap.add(Heap.allocated());
            }
            Timing t = Timing.of(seconds);
            double tokens = (double) config.batch() * config.length();
            double work = Work.step(decoder.config(), config.rank(), config.batch(), config.length(),
                    config.checkpointing());
            String what = String.format("training step, %d x %d tokens, r = %d%s%s", config.batch(), config.length(),
                    config.rank(), config.checkpointing() ? ", checkpointing" : "",
                    config.dropout() == 0 ? "" : ", dropout " + config.dropout())
                    + (config.resident().equals(Residency.ALL) ? "" : ", paged optimizer")
                    + (config.offload() ? ", offloaded inputs" : "");
            report.accept(Figure.rate("step", what, BenchRun.threads(backend), t, tokens, "tok/s", work, Bound.FLOPS,
                    ceilings.flops()).with("gflop_per_s", work / 1e9 / t.median()));
            if (Heap.isKnown(heap)) {
                report.accept(Heap.figure("step.heap", "a step", heap));
            }
            report.accept(memory("step.memory", "peak of the step: sum of allocations", backend.ledger().peak()));
            OptionalLong system = backend.systemBytes();
            if (system.isPresent()) {
                report.accept(memory("step.memory.system", backend.device().isHost()
                        ? "peak resident memory of the process, JVM included"
                        : "in use after it, as the driver counts", system.getAsLong()));
            }
        }
    }

    private static Figure memory(String id, String what, long bytes) {
        return new Figure(id, what, 0, null, bytes / 1e9, "GB", 0, "", java.util.Map.of());
    }
}
