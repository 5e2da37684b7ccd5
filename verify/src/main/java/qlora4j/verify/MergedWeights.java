package qlora4j.verify;

import qlora4j.lora.AdapterWeights;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.Merging;
import qlora4j.lora.PeftAdapter;
import qlora4j.model.DecoderWeights;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/** A dense float32 base with an adapter merged into it. */
final class MergedWeights implements DecoderWeights {
    private static final String SUFFIX = ".weight";

    private final SafetensorsView base;
    private final PeftAdapter adapter;
    private final Backend backend;

    MergedWeights(SafetensorsView base, PeftAdapter adapter, Backend backend) {
        this.base = base;
        this.adapter = adapter;
        this.backend = backend;
    }

    @Override
    public Tensor dense(String name, long... shape) {
        Tensor own = adapter.whole().get(name);
        return upload(Tensor.zeros(DType.F32, shape).copyFrom(own == null ? base.tensor(name) : own));
    }

    @Override
    public LinearWeight linear(String name, int out, int in) {
        Tensor w = Tensor.zeros(DType.F32, out, in).copyFrom(base.tensor(name));
        String module = name.substring(0, name.length() - SUFFIX.length());
        AdapterWeights pair = adapter.modules().get(module);
        if (pair != null) {
            Merging.merge(w, pair, adapter.config().scale(module));
        }
        return new LinearWeight.Dense(upload(w));
    }

    private Tensor upload(Tensor host) {
        Tensor device = backend.allocate(MemoryUse.WEIGHTS, host.dtype(), host.shape());
        backend.upload(host, device);
        return device;
    }
}
