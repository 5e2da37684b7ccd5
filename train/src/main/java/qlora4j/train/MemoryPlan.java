package qlora4j.train;

import java.io.IOException;
import java.util.EnumMap;
import java.util.Locale;
import java.util.Map;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.TokenBatch;
import qlora4j.optim.PagedStates;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Footprint;
import qlora4j.tensor.MemoryLedger;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.PlanBackend;

/**
 * The bytes a fine-tuning job will hold on its device, by use, before anything is loaded: the decoder, the adapter and
 * the trainer are built and a step is run as in the job itself, on the shape-only backend.
 *
 * @param bytes by use; the sum is the peak, since all is held together during a step
 * @param pagedOut bytes of optimizer state outside of the device: in host memory below a GPU, else in a file
 */
public record MemoryPlan(Map<MemoryUse, Long> bytes, long pagedOut) {
    /**
     * What memory depends on.
     *
     * @param checkpoint the weights, whose headers say what is in 4 bits; null where only the configuration is known
     * @param largest a batch at least as large as any micro-batch
     * @param evaluation a batch at least as large as any of an evaluation; null without one
     */
    public record Job(DecoderConfig config, DecoderLoader loader, SafetensorsView checkpoint, LoraConfig lora,
            TrainSettings settings, TokenBatch largest, TokenBatch evaluation) {
        /** The same with other settings of training. */
        public Job with(TrainSettings other, TokenBatch batch) {
            return new Job(config, loader, checkpoint, lora, other, batch, evaluation);
        }

        /** The same with another adapter. */
        public Job with(LoraConfig other) {
            return new Job(config, loader, checkpoint, other, settings, largest, evaluation);
        }

        /** The same loaded otherwise. */
        public Job with(DecoderLoader other) {
            return new Job(config, other, checkpoint, lora, settings, largest, evaluation);
        }
    }

    /** What is held by a device's ledger. */
    public static MemoryPlan held(MemoryLedger ledger) {
        Map<MemoryUse, Long> held = new EnumMap<>(MemoryUse.class);
        for (MemoryUse use : MemoryUse.values()) {
            held.put(use, ledger.held(use));
        }
        return new MemoryPlan(held, 0);
    }

    /** Predicts a job on a device, which need not be there. */
    public static MemoryPlan predict(Footprint device, Job job) throws IOException {
        try (PlanBackend plan = new PlanBackend(device)) {
            Decoder decoder = job.loader.shapes(job.config, job.checkpoint, plan);
            Adapter adapter = Adapter.create(decoder, 0, job.lora);
            try (Trainer trainer = new Trainer(decoder, adapter.parameters(), adapter.slot(), job.lora.dropout(),
                    job.settings, 1, job.largest, null)) {
                MemoryLedger ledger = plan.ledger();
                if (job.evaluation != null) {
                    ledger.add(MemoryUse.ACTIVATIONS, trainer.evaluationBytes(job.evaluation));
                }
                ledger.add(MemoryUse.WORKSPACE, device.workspaceBytes(new Footprint.Step(job.loader.type(),
                        largestQuantized(decoder), job.largest.rows(), job.config.heads())));
                PagedStates states = trainer.optimizer().states();
                return new MemoryPlan(held(ledger).bytes, Math.max(0, states.totalBytes() - states.residentBytes()));
            }
        }
    }

    private static long largestQuantized(Decoder decoder) {
        return decoder.linears().values().stream().map(Linear::weight)
                .filter(LinearWeight.Quantized.class::isInstance)
                .mapToLong(w -> (long) w.outFeatures() * w.inFeatures()).max().orElse(0);
    }

    /** The sum over all uses. */
    public long total() {
        return bytes.values().stream().mapToLong(Long::longValue).sum();
    }

    /** One line: each use in MB (1e6 bytes) and the sum. */
    public String line() {
        StringBuilder out = new StringBuilder();
        bytes.forEach((use, n) -> {
            if (n > 0) {
                out.append(String.format(Locale.ROOT, "%s %.1f, ", name(use), n / 1e6));
            }
        });
        return out + String.format(Locale.ROOT, "together %.1f MB", total() / 1e6);
    }

    /** A use as people read it: {@code kv cache}. */
    public static String name(MemoryUse use) {
        return use.name().toLowerCase(Locale.ROOT).replace('_', ' ');
    }
}
