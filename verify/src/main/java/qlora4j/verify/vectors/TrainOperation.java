package qlora4j.verify.vectors;

import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalInt;
import java.util.Set;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.Decoder.LossOptions;
import qlora4j.model.DecoderConfig;
import qlora4j.model.DecoderWeights;
import qlora4j.model.ModelTensors;
import qlora4j.model.RopeConfig;
import qlora4j.model.TokenBatch;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.AdamW;
import qlora4j.optim.Residency;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** A few steps of QLoRA on a decoder of one layer: everything together. */
final class TrainOperation implements Operation {
    private static final int VOCABULARY = 29;
    private static final int BATCH = 2;
    private static final int LENGTH = 12;
    private static final int PROMPT = 4;
    private static final int STEPS = 5;
    private static final int RANK = 4;
    private static final int ALPHA = 16;
    private static final double RATE = 5e-3;
    private static final double MAX_NORM = 0.3;
    private static final double DECAY = 0.01;
    private static final DecoderConfig CONFIG = new DecoderConfig(DecoderConfig.Architecture.LLAMA, VOCABULARY, 64, 96,
            1, 4, 2, 16, 1e-5, 64, false, 0, 0, RopeConfig.unscaled(10000), false, false, false, false, DType.F32,
            DecoderConfig.SILU, OptionalInt.empty(), List.of(), OptionalInt.empty(), null);
    /** What is measured between two correct implementations, five times: as for the recorded models. */
    private static final double FIRST_LOSS = 2e-5;
    private static final double LATER = 5e-4;

    private static final Set<Fault> FAULTS = Set.of(Fault.SCALE_MISSING, Fault.SCALE_IS_ALPHA,
            Fault.SCALE_RANK_STABILIZED, Fault.LABELS_UNSHIFTED, Fault.MEAN_OVER_ALL_TOKENS, Fault.SUM_INSTEAD_OF_MEAN,
            Fault.NOT_CLIPPED);

    private final Map<String, Tensor> inputs = new LinkedHashMap<>();
    private final Map<Optional<Fault>, Map<String, Tensor>> computed = new HashMap<>();
    private final int[] ids = Inputs.ints(40, VOCABULARY, BATCH * LENGTH);

    TrainOperation() {
        inputs.put("input_ids", Tensor.of(ids, BATCH, LENGTH));
        inputs.put("labels", Tensor.of(labels(), BATCH, LENGTH));
        ModelTensors.expected(CONFIG).forEach((name, shape) -> {
            boolean norm = shape.length == 1;
            boolean linear = !norm && name.startsWith(ModelTensors.layer(0));
            put(name, norm ? 0.1 : linear ? 1 / Math.sqrt(shape[1]) : 1, norm ? 1 : 0, shape);
            if (linear) {
                String module = name.substring(0, name.lastIndexOf('.'));
                put(module + ".lora_A.weight", 1 / Math.sqrt(shape[1]), 0, RANK, shape[1]);
                put(module + ".lora_B.weight", 0.02, 0, shape[0], RANK);
            }
        });
    }

    private void put(String name, double deviation, double mean, long... shape) {
        Tensor t = Inputs.normal(DType.F32, 50 + inputs.size(), deviation, shape);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, t.get(i) + mean);
        }
        inputs.put(name, t);
    }

    /** The tokens themselves, the prompts ignored. */
    private int[] labels() {
        int[] labels = ids.clone();
        for (int row = 0; row < BATCH; row++) {
            Arrays.fill(labels, row * LENGTH, row * LENGTH + PROMPT + row, TokenBatch.IGNORED);
        }
        return labels;
    }

    @Override
    public String name() {
        return "train";
    }

    @Override
    public String section() {
        return "6, 7, 8";
    }

    @Override
    public Map<String, Object> parameters() {
        Map<String, Object> p = new LinkedHashMap<>();
        p.put("model_type", "llama");
        p.put("num_attention_heads", CONFIG.heads());
        p.put("num_key_value_heads", CONFIG.kvHeads());
        p.put("head_dim", CONFIG.headDim());
        p.put("rms_norm_eps", CONFIG.rmsNormEps());
        p.put("rope_theta", CONFIG.rope().theta());
        p.put("r", RANK);
        p.put("lora_alpha", ALPHA);
        p.put("optimizer", "torch adamw");
        p.put("lr", RATE);
        p.put("weight_decay", DECAY);
        p.put("max_grad_norm", MAX_NORM);
        p.put("steps", STEPS);
        return p;
    }

    @Override
    public Map<String, Tensor> inputs() {
        return inputs;
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("first_loss", FIRST_LOSS), new Output("losses", LATER).after("first_loss"),
                new Output("grad_norms", LATER).after("first_loss", "losses"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        return run(backend, null);
    }

    /** There is no second decoder: the scalar backend runs on mistaken arguments. */
    @Override
    public Map<String, Tensor> compute(Fault fault) {
        if (fault != null && !FAULTS.contains(fault)) {
            return compute((Fault) null);
        }
        return computed.computeIfAbsent(Optional.ofNullable(fault), f -> onScalar(fault));
    }

    private Map<String, Tensor> onScalar(Fault fault) {
        try (Backend scalar = Backends.open(Backend.SCALAR)) {
            return run(scalar, fault);
        }
    }

    private Map<String, Tensor> run(Backend backend, Fault fault) {
        Tensor losses = Tensor.zeros(DType.F32, STEPS);
        Tensor norms = Tensor.zeros(DType.F32, STEPS);
        AdamHyper hyper = AdamHyper.defaults(AdamHyper.Formula.TORCH).withWeightDecay(DECAY);
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            Decoder decoder = new Decoder(CONFIG, backend, DType.F32, onBackend(s, on));
            LoraConfig lora = new LoraConfig(RANK, RANK * Fault.scale(fault, ALPHA, RANK), 0,
                    List.of(LoraConfig.ALL_LINEAR), null, 0);
            try (Adapter adapter = Adapter.create(decoder, 0, lora);
                    AdamW adam = new AdamW(backend, adapter.parameters(), Map.of(ParameterStore.DEFAULT_GROUP, hyper),
                            Residency.ALL, null)) {
                adapter.parameters().all().forEach(p -> backend.upload(inputs.get(p.name()), p.value()));
                TokenBatch batch = batch(fault != Fault.LABELS_UNSHIFTED);
                long counted = Arrays.stream(batch.labels()).filter(l -> l != TokenBatch.IGNORED).count();
                double scale = switch (fault) {
                    case MEAN_OVER_ALL_TOKENS -> 1.0 / ids.length;
                    case SUM_INSTEAD_OF_MEAN -> 1;
                    case null, default -> 1.0 / counted;
                };
                Tensor factor = on.copy(Tensor.of(new float[]{(float) scale}, 1));
                Tensor loss = on.copy(Tensor.zeros(DType.F64, 1));
                for (int step = 0; step < STEPS; step++) {
                    s.zero(loss);
                    adapter.parameters().zeroGrads(s);
                    decoder.loss(s, batch, adapter.use(), new LossOptions(true, false), factor, loss, null);
                    adam.prepare(RATE, 1);
                    adam.clip(s, fault == Fault.NOT_CLIPPED ? Double.POSITIVE_INFINITY : MAX_NORM);
                    adam.update(s);
                    s.synchronize();
                    losses.set(step, on.download(loss).get(0));
                    norms.set(step, adam.gradNorm());
                }
            }
        }
        Map<String, Tensor> out = new LinkedHashMap<>();
        out.put("first_loss", losses.slice(0, 1));
        out.put("losses", losses);
        out.put("grad_norms", norms);
        return out;
    }

    private DecoderWeights onBackend(Stream s, OnBackend on) {
        return new DecoderWeights() {
            @Override
            public Tensor dense(String name, long... shape) {
                return on.copy(inputs.get(name));
            }

            @Override
            public LinearWeight linear(String name, int out, int in) {
                return new LinearWeight.Quantized(
                        Blockwise.quantize(s, on.copy(inputs.get(name)), QuantConfig.QLORA));
            }
        };
    }

    private TokenBatch batch(boolean shifted) {
        int[] labels = labels();
        int[][] rows = new int[BATCH][];
        int[] targets = new int[labels.length];
        for (int row = 0; row < BATCH; row++) {
            rows[row] = Arrays.copyOfRange(ids, row * LENGTH, (row + 1) * LENGTH);
            for (int t = 0; t < LENGTH; t++) {
                int from = row * LENGTH + t + (shifted ? 1 : 0);
                targets[row * LENGTH + t] = from < (row + 1) * LENGTH ? labels[from] : TokenBatch.IGNORED;
            }
        }
        return TokenBatch.of(rows).withLabels(targets);
    }
}
