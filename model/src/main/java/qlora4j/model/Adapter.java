package qlora4j.model;

import java.io.IOException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.lora.AdapterWeights;
import qlora4j.lora.Linear;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.LoraInit;
import qlora4j.lora.LoraPair;
import qlora4j.lora.PeftAdapter;
import qlora4j.lora.TargetModules;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Device;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Tensor;

/**
 * An adapter in a slot of a decoder: its parameters in one flat buffer, a pair of views in every layer that it targets.
 * Several adapters can sit in the slots of one decoder; which one runs is an argument of each call.
 */
public final class Adapter implements AutoCloseable {
    private static final String A = ".lora_A.weight";
    private static final String B = ".lora_B.weight";

    private final Decoder decoder;
    private final int slot;
    private final LoraConfig config;
    private final List<String> modules;
    private final ParameterStore store;

    private Adapter(Decoder decoder, int slot, LoraConfig config, List<String> modules, boolean trained) {
        this.decoder = decoder;
        this.slot = slot;
        this.config = config;
        this.modules = modules;
        ParameterStore.Builder builder = ParameterStore.builder(Linear.wide(decoder.type()));
        for (String m : modules) {
            Linear linear = decoder.linears().get(m);
            builder.add(m + A, config.rank(), linear.inFeatures()).add(m + B, linear.outFeatures(), config.rank());
        }
        this.store = (trained ? builder : builder.withoutGradients()).build(decoder.backend());
        for (String m : modules) {
            ParameterStore.Parameter a = store.get(m + A);
            ParameterStore.Parameter b = store.get(m + B);
            decoder.linears().get(m).set(slot, new LoraPair(a.value(), b.value(), config.scale(), a.grad(), b.grad()));
        }
    }

    /** A new adapter to be trained: A Kaiming-uniform under the config's seed, B zero, so it changes nothing yet. */
    public static Adapter create(Decoder decoder, int slot, LoraConfig config) {
        List<String> targets = TargetModules.resolve(config, decoder.linears().keySet());
        Adapter adapter = new Adapter(decoder, slot, config, targets, true);
        if (!decoder.backend().device().equals(Device.PLAN)) {
            List<String> all = new ArrayList<>(decoder.linears().keySet());
            for (String m : targets) {
                Tensor a = adapter.store.param(m + A);
                Tensor host = Tensor.zeros(a.dtype(), a.shape());
                LoraInit.kaimingUniform(host, config.seed(), all.indexOf(m));
                decoder.backend().upload(host, a);
            }
        }
        return adapter;
    }

    /**
     * An adapter from a PEFT directory.
     *
     * @param trained whether it gets gradients, to be trained on
     */
    public static Adapter load(Decoder decoder, int slot, Path directory, boolean trained) throws IOException {
        try (PeftAdapter file = PeftAdapter.open(directory)) {
            for (Map.Entry<String, AdapterWeights> e : file.modules().entrySet()) {
                String m = e.getKey();
                if (!decoder.linears().containsKey(m)) {
                    throw new IOException(directory + ": the adapter is for module " + m
                            + ", which this model does not have: was it trained on another model?");
                }
                Linear linear = decoder.linears().get(m);
                AdapterWeights w = e.getValue();
                if (w.a().cols() != linear.inFeatures() || w.b().rows() != linear.outFeatures()) {
                    throw new IOException(directory + ": the adapter's " + m + " is [" + w.b().rows() + ", "
                            + w.a().cols() + "], the model's [" + linear.outFeatures() + ", " + linear.inFeatures()
                            + "]: was it trained on another model?");
                }
            }
            Adapter adapter = new Adapter(decoder, slot, file.config(), List.copyOf(file.modules().keySet()), trained);
            file.modules().forEach((m, w) -> {
                adapter.upload(m + A, w.a());
                adapter.upload(m + B, w.b());
            });
            return adapter;
        }
    }

    private void upload(String name, Tensor source) {
        Tensor target = store.param(name);
        decoder.backend().upload(Tensor.zeros(target.dtype(), target.shape()).copyFrom(source), target);
    }

    /** Writes {@code adapter_config.json} and {@code adapter_model.safetensors}, which PEFT loads. */
    public void save(Path directory) throws IOException {
        Map<String, AdapterWeights> weights = new LinkedHashMap<>();
        for (String m : modules) {
            weights.put(m, new AdapterWeights(host(m + A), host(m + B)));
        }
        PeftAdapter.write(directory, config, weights);
    }

    private Tensor host(String name) {
        Backend backend = decoder.backend();
        Tensor source = store.param(name);
        Tensor host = Tensor.zeros(source.dtype(), source.shape());
        backend.download(source, host);
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

    /** Parameters and gradients, named {@code <module path>.lora_A.weight} and {@code .lora_B.weight}. */
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
        store.close();
    }
}
