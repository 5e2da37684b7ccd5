package qlora4j.model;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import qlora4j.lora.AdapterWeights;
import qlora4j.lora.Dora;
import qlora4j.lora.Linear;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.LoraInit;
import qlora4j.lora.LoraPair;
import qlora4j.lora.PeftAdapter;
import qlora4j.lora.TargetModules;
import qlora4j.lora.TrainableTokens;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Device;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * An adapter in a slot of a decoder: its parameters in one flat buffer, a pair of views in every layer that it targets,
 * and, where its configuration asks for them, magnitudes (DoRA), biases, and whole modules of its own. Several adapters
 * can sit in the slots of one decoder; which one runs is an argument of each call.
 */
public final class Adapter implements AutoCloseable {
    /** The group of B and of magnitudes, whose learning rate LoRA+ scales; A and whole matrices are in the default. */
    public static final String GROUP_B = "lora_B";
    /** The group of biases and norms: as B, but without weight decay, as transformers' trainer has it. */
    public static final String GROUP_NO_DECAY = "no_decay";

    private static final String A = ".lora_A.weight";
    private static final String B = ".lora_B.weight";
    private static final String MAGNITUDE = ".lora_magnitude_vector.weight";
    private static final String BIAS = ".bias";
    private static final String WEIGHT = ".weight";
    private static final String TOKENS = ".trainable_tokens_delta";

    private final Decoder decoder;
    private final int slot;
    private final LoraConfig config;
    private final List<String> modules;
    private final List<String> whole;
    private final ParameterStore store;
    private final Map<String, Dora> doras = new LinkedHashMap<>();
    /** The first A and B of an adapter whose base lacks them. */
    private final Map<String, AdapterWeights> initial = new LinkedHashMap<>();

    /**
     * @param whole names of the base model's biases and weights that this adapter has copies of
     * @param shapes tensors as large as those, where they are not as large as the base's
     */
    private Adapter(Decoder decoder, int slot, LoraConfig config, List<String> modules, List<String> whole,
            Map<String, Tensor> shapes, boolean trained) {
        this.decoder = decoder;
        this.slot = slot;
        this.config = config.withTokens(AdapterTokens.of(decoder, config.tokens()));
        this.modules = modules;
        this.whole = whole;
        ParameterStore.Builder builder = ParameterStore.builder(Linear.wide(decoder.type()));
        for (String m : modules) {
            Linear linear = decoder.linears().get(m);
            builder.add(m + A, config.rank(m), linear.inFeatures());
            builder.addTo(GROUP_B, m + B, linear.outFeatures(), config.rank(m));
            if (config.dora()) {
                builder.addTo(GROUP_B, m + MAGNITUDE, linear.outFeatures());
            }
        }
        for (String name : whole) {
            long[] shape = shapes.getOrDefault(name, base(name)).shape();
            builder.addTo(shape.length == 1 ? GROUP_NO_DECAY : ParameterStore.DEFAULT_GROUP, name, shape);
        }
        this.config.tokens().indices().forEach(
                (module, ids) -> builder.add(module + TOKENS, ids.size(), decoder.config().hidden()));
        this.store = (trained ? builder : builder.withoutGradients()).build(decoder.backend());
        for (String m : modules) {
            Linear linear = decoder.linears().get(m);
            ParameterStore.Parameter a = store.get(m + A);
            ParameterStore.Parameter b = store.get(m + B);
            if (config.dora()) {
                ParameterStore.Parameter magnitude = store.get(m + MAGNITUDE);
                doras.put(m, new Dora(decoder.backend(), linear.weight(), magnitude.value(), magnitude.grad()));
            }
            linear.set(slot, new LoraPair(a.value(), b.value(), config.scale(m), a.grad(), b.grad(), doras.get(m)));
        }
        for (String name : whole) {
            ParameterStore.Parameter p = store.get(name);
            put(name, p.value(), p.grad());
        }
        this.config.tokens().indices().forEach((module, ids) -> {
            ParameterStore.Parameter p = store.get(module + TOKENS);
            try {
                table(module).set(slot, ids, p.value(), p.grad());
            } catch (IllegalArgumentException e) {
                close();
                throw e;
            }
        });
        int embedding = decoder.others().get(ModelTensors.EMBEDDING).weight(use()).rows();
        if (embedding != decoder.vocab(use())) {
            String sizes = embedding + " and " + decoder.vocab(use());
            close();
            throw new IllegalArgumentException("the adapter makes the embedding and the head of different sizes, "
                    + sizes
                    + " tokens (trainable_token_indices " + this.config.tokens() + "); new tokens need a row of both");
        }
    }

    private TokenTable table(String module) {
        return decoder.table(module.equals(TrainableTokens.HEAD));
    }

    private void put(String name, Tensor value, Tensor grad) {
        if (name.endsWith(BIAS)) {
            decoder.linears().get(name.substring(0, name.length() - BIAS.length())).setBias(slot, value, grad);
        } else {
            decoder.others().get(name).set(slot, value, grad);
        }
    }

    /** The base model's bias or weight called {@code name}, or null. */
    private Tensor base(String name) {
        return base(decoder, name);
    }

    private static Tensor base(Decoder decoder, String name) {
        if (name.endsWith(BIAS)) {
            Linear linear = decoder.linears().get(name.substring(0, name.length() - BIAS.length()));
            return linear == null ? null : linear.bias();
        }
        SlottedWeight weight = decoder.others().get(name);
        return weight == null ? null : weight.base();
    }

    /**
     * A new adapter to be trained, which changes nothing yet: B is zero, magnitudes are the weights' norms, biases and
     * whole modules copies of the base model's.
     */
    public static Adapter create(Decoder decoder, int slot, LoraConfig config) {
        return create(decoder, slot, config, null);
    }

    /**
     * The same, or with {@link LoraConfig.Init#needsWeights} an adapter that begins with a part of the weights; then the
     * base model may become another one, for all adapters on it, and what is saved is an adapter of twice the rank for
     * the base as it was.
     *
     * @param weights the dense checkpoint, where the initial values need it; else null
     */
    public static Adapter create(Decoder decoder, int slot, LoraConfig config, SafetensorsView weights) {
        List<String> targets = TargetModules.resolve(config, decoder.linears().keySet());
        Adapter adapter = new Adapter(decoder, slot, config, targets, whole(decoder, config, targets), Map.of(), true);
        if (!decoder.backend().device().equals(Device.PLAN)) {
            List<String> all = new ArrayList<>(decoder.linears().keySet());
            if (config.init().needsWeights() && weights == null) {
                throw new IllegalArgumentException("--init-lora-weights " + config.init() + " needs the dense weights");
            }
            WeightInit fromWeights = config.init().needsWeights() ? new WeightInit(decoder, config, weights) : null;
            for (String m : targets) {
                Tensor a = adapter.store.param(m + A);
                if (fromWeights != null) {
                    AdapterWeights pair = fromWeights.initialize(m, all.indexOf(m));
                    adapter.upload(m + A, pair.a());
                    adapter.upload(m + B, pair.b());
                    if (config.init().changesBase()) {
                        adapter.initial.put(m, pair);
                    }
                    continue;
                }
                Tensor host = Tensor.zeros(a.dtype(), a.shape());
                if (config.init().kind() == LoraConfig.Init.Kind.GAUSSIAN) {
                    LoraInit.gaussian(host, config.seed(), all.indexOf(m));
                } else {
                    LoraInit.kaimingUniform(host, config.seed(), all.indexOf(m));
                }
                decoder.backend().upload(host, a);
            }
            for (String name : adapter.whole) {
                adapter.upload(name, adapter.download(adapter.base(name)));
            }
            adapter.config.tokens().indices().keySet()
                    .forEach(module -> adapter.upload(module + TOKENS, AdapterTokens.first(
                            decoder, base(decoder, module + WEIGHT), adapter.config.tokens().of(module))));
            adapter.eachDora(Dora::initialize);
        }
        return adapter;
    }

    /** The biases and whole modules that a config trains, by PEFT's rules: a module's path ends with the name. */
    private static List<String> whole(Decoder decoder, LoraConfig config, List<String> targets) {
        List<String> names = new ArrayList<>();
        decoder.linears().forEach((m, linear) -> {
            boolean wanted = switch (config.bias()) {
                case NONE -> false;
                case ALL -> true;
                case LORA_ONLY -> targets.contains(m);
            };
            if (wanted && linear.bias() != null) {
                names.add(m + BIAS);
            }
        });
        for (String module : config.modulesToSave()) {
            List<String> found = decoder.others().keySet().stream().filter(n -> isOf(n, module)).toList();
            if (decoder.linears().keySet().stream().anyMatch(m -> m.endsWith(module))) {
                throw new IllegalArgumentException("--modules-to-save " + module
                        + ": linear layers are frozen and may be"
                        + " held in 4 bits; embed_tokens, lm_head and norms can be trained whole, linear layers get"
                        + " adapters (--target-modules)");
            }
            if (found.isEmpty()) {
                throw new IllegalArgumentException("--modules-to-save " + module + ": the model has no such module;"
                        + " there are embed_tokens, lm_head and norms");
            }
            found.stream().filter(n -> !names.contains(n)).forEach(names::add);
        }
        return List.copyOf(names);
    }

    private static boolean isOf(String name, String module) {
        return name.substring(0, name.length() - WEIGHT.length()).endsWith(module);
    }

    /**
     * An adapter from a PEFT directory.
     *
     * @param trained whether it gets gradients, to be trained on
     */
    public static Adapter load(Decoder decoder, int slot, Path directory, boolean trained) throws IOException {
        try (PeftAdapter file = PeftAdapter.open(directory)) {
            check(decoder, directory, file);
            Map<String, Tensor> whole = new LinkedHashMap<>(file.whole());
            boolean rows = AdapterTokens.dropGrown(decoder, file, whole);
            if (!rows && trained && !file.tokens().isEmpty()) {
                throw new IOException(directory + ": the adapter has an embedding of its own beside its trained tokens;"
                        + " it can be used, but not trained further here");
            }
            Adapter adapter;
            try {
                adapter = new Adapter(decoder, slot,
                        rows ? file.config() : file.config().withTokens(TrainableTokens.NONE),
                        List.copyOf(file.modules().keySet()), List.copyOf(whole.keySet()), whole, trained);
            } catch (IllegalArgumentException e) {
                throw new IOException(directory + ": " + e.getMessage(), e);
            }
            file.modules().forEach((m, w) -> {
                adapter.upload(m + A, w.a());
                adapter.upload(m + B, w.b());
                if (w.magnitude() != null) {
                    adapter.upload(m + MAGNITUDE, w.magnitude());
                }
            });
            whole.forEach(adapter::upload);
            adapter.config.tokens().indices().keySet()
                    .forEach(module -> adapter.upload(module + TOKENS, file.tokens().get(module)));
            adapter.eachDora(Dora::refresh);
            return adapter;
        }
    }

    private static void check(Decoder decoder, Path directory, PeftAdapter file) throws IOException {
        for (Map.Entry<String, AdapterWeights> e : file.modules().entrySet()) {
            String m = e.getKey();
            Linear linear = decoder.linears().get(m);
            if (linear == null) {
                throw new IOException(directory + ": the adapter is for module " + m + (Set.of("lm_head",
                        "model.embed_tokens").contains(m)
                                ? "; adapters of the embedding and of the head are not supported"
                                : ", which this model does not have: was it trained on another model?"));
            }
            AdapterWeights w = e.getValue();
            if (w.a().cols() != linear.inFeatures() || w.b().rows() != linear.outFeatures()) {
                throw new IOException(directory + ": the adapter's " + m + " is [" + w.b().rows() + ", "
                        + w.a().cols() + "], the model's [" + linear.outFeatures() + ", " + linear.inFeatures()
                        + "]: was it trained on another model?");
            }
        }
        for (Map.Entry<String, Tensor> e : file.whole().entrySet()) {
            Tensor base = base(decoder, e.getKey());
            boolean table = base != null && TableMemory.isTable(e.getKey());
            if (base == null || !table && !e.getValue().hasShape(base.shape())
                    || table && (e.getValue().rank() != 2 || e.getValue().cols() != base.cols())) {
                throw new IOException(directory + ": the adapter has its own " + e.getKey() + ", " + e.getValue()
                        + (base == null ? ", which this model does not have" : ", the model's is " + base)
                        + ": was it trained on another model, or with another vocabulary?");
            }
        }
    }

    /** Something done with each layer's magnitudes. */
    private interface DoraStep {
        void run(Dora dora, Stream s, qlora4j.lora.LinearWeight weight, LoraPair pair);
    }

    private void eachDora(DoraStep step) {
        if (doras.isEmpty()) {
            return;
        }
        try (Stream s = decoder.backend().openStream()) {
            doras.forEach((m, dora) -> {
                Linear linear = decoder.linears().get(m);
                step.run(dora, s, linear.weight(), linear.get(slot));
            });
            s.synchronize();
        }
    }

    private void upload(String name, Tensor source) {
        Tensor target = store.param(name);
        decoder.backend().upload(Tensor.zeros(target.dtype(), target.shape()).copyFrom(source), target);
    }

    /** Makes what was computed of the parameters (DoRA's norms) new, after they were changed from outside. */
    public void refresh() {
        eachDora(Dora::refresh);
    }

    /**
     * Writes {@code adapter_config.json} and {@code adapter_model.safetensors}, which PEFT loads. Where the base became
     * another one for this adapter, an adapter of twice the rank for the base as it was.
     */
    public void save(Path directory) throws IOException {
        Map<String, AdapterWeights> weights = new LinkedHashMap<>();
        for (String m : modules) {
            AdapterWeights now =
                    new AdapterWeights(host(m + A), host(m + B), config.dora() ? host(m + MAGNITUDE) : null);
            weights.put(m, initial.isEmpty() ? now : now.since(initial.get(m)));
        }
        Map<String, Tensor> others = new LinkedHashMap<>();
        for (String name : whole) {
            others.put(name, host(name));
        }
        Map<String, Tensor> tokens = new LinkedHashMap<>();
        config.tokens().indices().keySet().forEach(module -> tokens.put(module, host(module + TOKENS)));
        PeftAdapter.write(directory, initial.isEmpty() ? config : config.forOriginalBase(), weights, others, tokens);
    }

    private Tensor host(String name) {
        return download(store.param(name));
    }

    private Tensor download(Tensor source) {
        Tensor host = Tensor.zeros(source.dtype(), source.shape());
        decoder.backend().download(source, host);
        return host;
    }

    public int slot() {
        return slot;
    }

    public LoraConfig config() {
        return config;
    }

    /** The module paths that it targets. */
    public List<String> modules() {
        return modules;
    }

    /**
     * Parameters and gradients, named {@code <module path>.lora_A.weight}, {@code .lora_B.weight},
     * {@code .lora_magnitude_vector.weight}; biases and whole modules by the base model's names.
     */
    public ParameterStore parameters() {
        return store;
    }

    /** Calls in which every row uses this adapter. */
    public Linear.Adapters use() {
        return Linear.Adapters.of(slot);
    }

    /** Empties the slot and frees the parameters. */
    @Override
    public void close() {
        for (String m : modules) {
            decoder.linears().get(m).set(slot, null);
        }
        config.tokens().indices().keySet().forEach(module -> table(module).remove(slot));
        whole.forEach(name -> put(name, null, null));
        doras.values().forEach(Dora::close);
        store.close();
    }
}
