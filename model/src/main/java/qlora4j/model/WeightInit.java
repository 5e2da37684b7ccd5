package qlora4j.model;

import qlora4j.lora.AdapterWeights;
import qlora4j.lora.Linear;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.PrincipalInit;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** {@link PrincipalInit} of a decoder's layers from its dense checkpoint. */
final class WeightInit {
    private static final System.Logger LOG = System.getLogger(WeightInit.class.getName());

    private final Decoder decoder;
    private final LoraConfig config;
    private final SafetensorsView weights;

    /** @param weights the dense checkpoint */
    WeightInit(Decoder decoder, LoraConfig config, SafetensorsView weights) {
        this.decoder = decoder;
        this.config = config;
        this.weights = weights;
        if (config.init().kind() == LoraConfig.Init.Kind.PISSA && config.dropout() > 0) {
            LOG.log(System.Logger.Level.WARNING, "--init-lora-weights " + config.init() + " with --lora-dropout "
                    + config.dropout() + ": the adapters hold the weights' principal part, of which dropout takes some"
                    + " away at every step; PiSSA is meant for --lora-dropout 0");
        }
    }

    /** Sets a module's base weight and returns its adapter. */
    AdapterWeights initialize(String module, int number) {
        Linear linear = decoder.linears().get(module);
        double[] w = dense(module + ".weight", linear.outFeatures(), linear.inFeatures());
        return new PrincipalInit(decoder.backend(), config.init(), config.rank(module), config.scale(module),
                Linear.wide(decoder.type()), config.seed()).initialize(linear.weight(), w, number);
    }

    /** The checkpoint's weight, in the compute type first, as it is when the base is quantized. */
    private double[] dense(String name, int out, int in) {
        if (!weights.contains(name) || !weights.info(name).dtype().isFloat()) {
            throw new IllegalArgumentException("--init-lora-weights " + config.init() + " needs the dense weights; "
                    + name + " is in 4 bits: give the dense model as --model");
        }
        Tensor source = weights.tensor(name);
        DType type = decoder.type() == DType.BF16 ? DType.BF16 : source.dtype();
        Tensor rounded = source.dtype() == type ? source : Tensor.zeros(type, out, in).copyFrom(source);
        double[] w = new double[Math.multiplyExact(out, in)];
        for (int i = 0; i < w.length; i++) {
            w[i] = rounded.get(i);
        }
        return w;
    }
}
