package qlora4j.train;

import java.util.EnumMap;
import java.util.Map;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderLoader;
import qlora4j.model.ShapeWeights;
import qlora4j.model.TokenBatch;
import qlora4j.optim.AdamW;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.PlanBackend;
import qlora4j.tensor.Tensor;

/**
 * The bytes a fine-tuning job will hold, by use, before anything is loaded: the same construction and the same step on
 * the shape-only backend.
 *
 * @param bytes by use; the sum is the peak, since all is held together during a step
 */
public record MemoryPlan(Map<MemoryUse, Long> bytes) {
    /** Predicts a job on {@code backend} whose micro-batches are at most {@code largest}. */
    public static MemoryPlan predict(Backend backend, DecoderConfig config, DecoderLoader loader, LoraConfig lora,
            TrainSettings settings, TokenBatch largest) {
        try (PlanBackend plan = new PlanBackend(backend)) {
            Decoder decoder = new Decoder(config, plan, loader.type(),
                    new ShapeWeights(plan, loader.type(), loader.quantize()));
            Adapter adapter = Adapter.create(decoder, 0, lora);
            DType wide = Linear.wide(loader.type());
            Tensor one = Tensor.shapeOnly(wide, 1);
            Tensor loss = Tensor.shapeOnly(DType.F64, 1);
            Adapters use = Trainer.training(0, lora.dropout(), settings.seed(), Tensor.shapeOnly(DType.I32, 1));
            LossOptions options = new LossOptions(true, settings.checkpointing());
            ArenaPlan step = ArenaPlan.of(s -> decoder.loss(s, largest, use, options, one, loss, null));
            plan.ledger().add(MemoryUse.ACTIVATIONS, step.bytes());
            long states = AdamW.stateBytes(settings.adam(), wide, adapter.parameters().flatSize());
            plan.ledger().add(MemoryUse.OPTIMIZER, settings.resident().budget(states));
            Map<MemoryUse, Long> held = new EnumMap<>(MemoryUse.class);
            for (MemoryUse use2 : MemoryUse.values()) {
                held.put(use2, plan.ledger().held(use2));
            }
            return new MemoryPlan(held);
        }
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
                out.append(String.format("%s %.1f, ", use.name().toLowerCase(java.util.Locale.ROOT).replace('_', ' '),
                        n / 1e6));
            }
        });
        return out + String.format("together %.1f MB", total() / 1e6);
    }
}
