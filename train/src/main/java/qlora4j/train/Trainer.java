package qlora4j.train;

import java.nio.file.Path;
import java.util.List;
import qlora4j.lora.Dropout;
import qlora4j.lora.Linear;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.EmbeddingNoise;
import qlora4j.model.HostLayerInputs;
import qlora4j.model.LayerInputStore;
import qlora4j.model.TokenBatch;
import qlora4j.optim.AdamW;
import qlora4j.optim.FilePageStore;
import qlora4j.optim.HostPageStore;
import qlora4j.optim.Optim;
import qlora4j.optim.PageStore;
import qlora4j.optim.Schedule;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.ArenaPlan;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.train.data.Batch;
import qlora4j.train.data.GlobalBatch;

/**
 * The optimizer step: forward and backward of each micro-batch, clipping, AdamW. It knows a decoder, a store of trained
 * parameters and batches of token ids, and nothing of files or texts. What it trains is decided by which layers carry
 * gradients: adapters, or everything.
 */
public final class Trainer implements AutoCloseable {
    private final Decoder decoder;
    private final ParameterStore parameters;
    private final TrainSettings settings;
    private final int totalSteps;
    private final Backend backend;
    private final Stream stream;
    private final AdamW optimizer;
    private final Adapters training;
    private final Adapters evaluating;
    private final LayerInputStore inputs;
    private final Tensor scale;
    private final Tensor loss;
    private final Tensor stepNumber;
    private final Allocation scalars;
    private final ArenaPlan plan;
    private final Allocation arena;
    private int step;

    /** What one step did. */
    public record StepResult(int step, double loss, double gradNorm, double learningRate, int tokens, int labelTokens) {
    }

    /**
     * A trainer at step 0.
     *
     * @param slot the adapter slot that is trained, or {@link Adapters#NO_SLOT} when the weights themselves are
     * @param dropout probability of dropping an adapter's input
     * @param largest a batch at least as large as any micro-batch, to plan memory with
     * @param spill where pages of the optimizer go that may not stay in memory; a GPU's go to host memory
     */
    public Trainer(Decoder decoder, ParameterStore parameters, int slot, double dropout, TrainSettings settings,
            int totalSteps, TokenBatch largest, Path spill) {
        this.decoder = decoder;
        this.parameters = parameters;
        this.settings = settings;
        this.totalSteps = totalSteps;
        this.backend = decoder.backend();
        stream = backend.openStream();
        optimizer = new AdamW(backend, parameters, settings.hyperOfGroup(), settings.resident(),
                pages(backend, spill));
        DType wide = Linear.wide(decoder.type());
        scalars = backend.allocate(3 * ArenaPlan.ALIGNMENT, MemoryUse.WORKSPACE);
        scale = scalars.tensor(0, wide, 1);
        loss = scalars.tensor(ArenaPlan.ALIGNMENT, DType.F64, 1);
        stepNumber = scalars.tensor(2 * ArenaPlan.ALIGNMENT, DType.I32, 1);
        evaluating = new Adapters(slot, null, null);
        training = training(slot, dropout, settings.seed(), stepNumber);
        inputs = settings.offloadActivations() ? HostLayerInputs.open(decoder, largest.rows()) : null;
        plan = ArenaPlan.of(s -> decoder.loss(s, largest, training, options(), scale, loss, null));
        arena = backend.allocate(Math.max(1, plan.bytes()), MemoryUse.ACTIVATIONS);
    }

    /** Below a GPU pages go to host memory, below the host's memory into a file. */
    private static PageStore.Factory pages(Backend backend, Path spill) {
        return backend.device().isHost() ? FilePageStore.in(spill) : HostPageStore.pageLocked(backend);
    }

    static Adapters training(int slot, double dropout, long seed, Tensor stepNumber) {
        return new Adapters(slot, null, dropout == 0 ? null : new Dropout(dropout, seed, stepNumber, null, null));
    }

    private LossOptions options() {
        double alpha = settings.neftuneAlpha();
        return new LossOptions(true, settings.checkpointing(), inputs,
                alpha == 0 ? null : new EmbeddingNoise(alpha, settings.seed(), stepNumber));
    }

    /** Steps done. */
    public int step() {
        return step;
    }

    public int totalSteps() {
        return totalSteps;
    }

    public AdamW optimizer() {
        return optimizer;
    }

    public Backend backend() {
        return backend;
    }

    public ParameterStore parameters() {
        return parameters;
    }

    /** Bytes of the step's activations. */
    public long arenaBytes() {
        return plan.bytes();
    }

    /** Goes on after a checkpoint, whose parameters and optimizer states have been restored. */
    void resumeAt(int done) {
        step = done;
        optimizer.resumeAt(done);
    }

    /** One optimizer step; the loss is the mean over the label tokens of the whole global batch. */
    public StepResult step(GlobalBatch batch) {
        double rate = learningRate(step);
        backend.upload(Tensor.zeros(scale.dtype(), 1).fill(1.0 / batch.labelTokens()), scale);
        backend.upload(Tensor.of(new int[]{step}, 1), stepNumber);
        stream.zero(loss);
        parameters.zeroGrads(stream);
        for (Batch b : batch.microBatches()) {
            planned(tokens(b), training, options());
        }
        optimizer.prepare(rate, 1);
        optimizer.clip(stream, settings.maxGradNorm());
        double lossValue = read(loss);
        double norm = optimizer.gradNorm();
        if (!Double.isFinite(lossValue) || !Double.isFinite(norm)) {
            String where = Optim.firstNonFinite(stream, parameters).map(w -> "; " + w)
                    .orElse("; all parameters and gradients are finite");
            throw new TrainingException("step " + (step + 1) + ": the loss is " + lossValue
                    + " and the gradient norm " + norm + where
                    + ". Nothing was updated. A lower --learning-rate or --max-grad-norm usually helps");
        }
        optimizer.update(stream);
        step++;
        return new StepResult(step, lossValue, norm, rate, batch.tokens(), batch.labelTokens());
    }

    private double learningRate(int at) {
        long warmup = Schedule.warmupSteps(0, settings.warmupRatio(), totalSteps);
        return settings.learningRate() * settings.schedule().factor(at, warmup, totalSteps);
    }

    private void planned(TokenBatch batch, Adapters adapters, LossOptions options) {
        stream.begin(plan, arena);
        try {
            decoder.loss(stream, batch, adapters, options, scale, loss, null);
            stream.end();
        } finally {
            stream.abandon();
        }
    }

    private double read(Tensor scalar) {
        Tensor host = Tensor.zeros(scalar.dtype(), 1);
        backend.download(scalar, host);
        return host.get(0);
    }

    /** The mean negative log-likelihood over the label tokens of all batches, in nats, without dropout. */
    public double evaluate(List<Batch> batches) {
        return meanLoss(decoder, evaluating, batches, arena);
    }

    /** Bytes that an evaluation of a batch allocates beside what the trainer holds. */
    long evaluationBytes(TokenBatch batch) {
        long bytes = evaluation(decoder, batch, evaluating, scale, loss).bytes();
        return bytes > arena.bytes() ? bytes : 0;
    }

    private static ArenaPlan evaluation(Decoder decoder, TokenBatch t, Adapters adapters, Tensor scale, Tensor sum) {
        return ArenaPlan.of(p -> decoder.loss(p, t, adapters, LossOptions.EVALUATE, scale, sum, null));
    }

    /** The mean negative log-likelihood over the label tokens of all batches, in nats. */
    public static double meanLoss(Decoder decoder, Adapters adapters, List<Batch> batches) {
        return meanLoss(decoder, adapters, batches, null);
    }

    /** @param spare memory to use where it is large enough; or null */
    private static double meanLoss(Decoder decoder, Adapters adapters, List<Batch> batches, Allocation spare) {
        Backend backend = decoder.backend();
        long labels = batches.stream().mapToLong(Batch::labelTokens).sum();
        try (Stream s = backend.openStream();
                Allocation memory = backend.allocate(2 * ArenaPlan.ALIGNMENT, MemoryUse.WORKSPACE)) {
            Tensor one = memory.tensor(0, Linear.wide(decoder.type()), 1);
            Tensor sum = memory.tensor(ArenaPlan.ALIGNMENT, DType.F64, 1);
            backend.upload(Tensor.zeros(one.dtype(), 1).fill(1.0 / labels), one);
            s.zero(sum);
            for (Batch b : batches) {
                TokenBatch t = tokens(b);
                ArenaPlan plan = evaluation(decoder, t, adapters, one, sum);
                boolean fits = spare != null && plan.bytes() <= spare.bytes();
                try (Allocation own = fits ? null
                        : backend.allocate(Math.max(1, plan.bytes()), MemoryUse.ACTIVATIONS)) {
                    s.begin(plan, fits ? spare : own);
                    try {
                        decoder.loss(s, t, adapters, LossOptions.EVALUATE, one, sum, null);
                        s.end();
                    } finally {
                        s.abandon();
                    }
                    s.synchronize();
                }
            }
            Tensor host = Tensor.zeros(DType.F64, 1);
            backend.download(sum, host);
            return host.get(0);
        }
    }

    /** A data batch as the decoder takes it. */
    public static TokenBatch tokens(Batch b) {
        return new TokenBatch(b.tokens(), b.cuLengths(), b.positions(), b.sample(), b.labels());
    }

    @Override
    public void close() {
        stream.close();
        optimizer.close();
        if (inputs != null) {
            inputs.close();
        }
        scalars.close();
        arena.close();
    }
}
