package qlora4j.verify;

import java.util.Map;
import qlora4j.lora.AdapterWeights;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.PeftAdapter;
import qlora4j.model.DecoderWeights;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/** A dense float32 base with an adapter merged into it, {@code W + scale·B·A} with each operation rounded to float32. */
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
        return upload(Tensor.zeros(DType.F32, shape).copyFrom(base.tensor(name)));
    }

    @Override
    public LinearWeight linear(String name, int out, int in) {
        Tensor w = Tensor.zeros(DType.F32, out, in).copyFrom(base.tensor(name));
        Map<String, AdapterWeights> modules = adapter.modules();
        AdapterWeights pair = modules.get(name.substring(0, name.length() - SUFFIX.length()));
        if (pair != null) {
            merge(w, pair.a(), pair.b());
        }
        return new LinearWeight.Dense(upload(w));
    }

    private void merge(Tensor w, Tensor a, Tensor b) {
        float scale = (float) adapter.config().scale();
        int r = a.rows();
        for (int o = 0; o < w.rows(); o++) {
            for (int i = 0; i < w.cols(); i++) {
                double sum = 0;
                for (int k = 0; k < r; k++) {
                    sum += b.get((long) o * r + k) * a.get((long) k * a.cols() + i);
                }
                long at = (long) o * w.cols() + i;
                w.set(at, (float) w.get(at) + (float) sum * scale);
            }
        }
    }

    private Tensor upload(Tensor host) {
        Tensor device = backend.allocate(MemoryUse.WEIGHTS, host.dtype(), host.shape());
        backend.upload(host, device);
        return device;
    }
}
