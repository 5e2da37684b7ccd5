package qlora4j.verify.vectors;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.nf4.Codebook;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** A tensor quantized to 4 bits, with double quantization, and dequantized: {@code SPEC.md} sections 3 and 4. */
final class QuantizeOperation implements Operation {
    private static final int BLOCKSIZE = QuantConfig.QLORA.blocksize();

    /** Relative: sums of float32 in any order, as for recorded bundles. */
    private static final double MEAN = 16 * 0x1p-24;

    private final String name;
    private final QuantType type;
    private final Tensor x;
    private final Float offset;
    private final List<Output> outputs;

    private QuantizeOperation(String name, QuantType type, Tensor x) {
        this("quantize." + name, type, x, null);
    }

    private QuantizeOperation(String name, QuantType type, Tensor x, Float offset) {
        this.name = name;
        this.type = type;
        this.x = x;
        this.offset = offset;
        double mean = compute((Fault) null).get("offset").get(0);
        outputs = List.of(Output.exact("absmax"), Output.exact("packed", "absmax"), Output.exact("dequant", "packed"),
                new Output("offset", MEAN * Math.abs(mean), true, List.of("absmax")),
                Output.exact("nested.absmax2", "offset"), Output.exact("nested.absmax", "nested.absmax2"),
                Output.exact("nested.scales", "nested.absmax"),
                Output.exact("nested.dequant", "packed", "nested.scales"));
    }

    /** A mean depends on the order of its sum: what follows is judged by their mean, where it is one. */
    @Override
    public Operation goingOnFrom(Map<String, Tensor> theirs) {
        Tensor mean = theirs.get("offset");
        return mean == null || mean.size() != 1 ? this : new QuantizeOperation(name, type, x, (float) mean.get(0));
    }

    /** All cases, the ordinary one first. */
    static List<Operation> cases() {
        List<Operation> all = new ArrayList<>();
        // 80 columns: blocks cross rows. More than 256 blocks: two blocks of the second level, the last one short.
        all.add(new QuantizeOperation("normal", QuantType.NF4, Inputs.normal(DType.F32, 0, 0.02, 210, 80)));
        all.add(new QuantizeOperation("ties", QuantType.NF4, ties()));
        all.add(new QuantizeOperation("special", QuantType.NF4, special()));
        all.add(new QuantizeOperation("bf16", QuantType.NF4, Inputs.normal(DType.BF16, 1, 0.02, 37, 16)));
        all.add(new QuantizeOperation("fp4", QuantType.FP4, Inputs.normal(DType.F32, 2, 0.02, 37, 16)));
        return all;
    }

    /** In each block 1, then the thresholds and their neighbours; then a block whose reciprocal is not exact. */
    private static Tensor ties() {
        List<Float> values = new ArrayList<>();
        values.add(1f);
        for (float t : Codebook.NF4.thresholds()) {
            values.addAll(List.of(Math.nextDown(t), t, Math.nextUp(t)));
        }
        while (values.size() % BLOCKSIZE != 0) {
            values.add(0f);
        }
        // Quotients of small integers by 3, 7, 11 ... : x / absmax and x * (1 / absmax) part in the last place.
        Philox.Sequence rng = new Philox.Sequence(Inputs.SEED, 1, 3);
        for (float largest : new float[]{3, 7, 11, 13, 19, 23}) {
            values.add(largest);
            for (int i = 1; i < BLOCKSIZE; i++) {
                float t = Codebook.NF4.thresholds()[rng.nextInt(15)];
                float near = t * largest;
                for (int ulps = rng.nextInt(5) - 2; ulps != 0; ulps -= Integer.signum(ulps)) {
                    near = ulps > 0 ? Math.nextUp(near) : Math.nextDown(near);
                }
                values.add(near);
            }
        }
        Tensor t = Tensor.zeros(DType.F32, values.size());
        for (int i = 0; i < values.size(); i++) {
            t.set(i, values.get(i));
        }
        return t;
    }

    /** A zero block, negative zeros, subnormal constants and reciprocals, a negative maximum, huge numbers, odd tail. */
    private static Tensor special() {
        float[] scales = {0, -0f, Float.MIN_VALUE, 0x1p-130f, 0x1p-127f, 0x1p126f, Float.MAX_VALUE / 4, -1};
        Tensor t = Tensor.zeros(DType.F32, scales.length * BLOCKSIZE + 17);
        Philox.Sequence rng = new Philox.Sequence(Inputs.SEED, 1, 4);
        for (int i = 0; i < t.size(); i++) {
            float scale = i / BLOCKSIZE < scales.length ? scales[i / BLOCKSIZE] : 1;
            float share = i % BLOCKSIZE == 0 ? 1 : 2 * rng.nextFloat() - 1;
            t.set(i, scale * share);
        }
        return t;
    }

    @Override
    public String name() {
        return name;
    }

    @Override
    public String section() {
        return "3, 4";
    }

    @Override
    public Map<String, Object> parameters() {
        return Map.of("quant_type", type.toString(), "blocksize", BLOCKSIZE, "nested_blocksize",
                QuantConfig.NESTED_BLOCKSIZE);
    }

    @Override
    public Map<String, Tensor> inputs() {
        return Map.of("x", x);
    }

    @Override
    public List<Output> outputs() {
        return outputs;
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            Tensor device = on.copy(x);
            QuantizedTensor plain = Blockwise.quantize(s, device, new QuantConfig(type, BLOCKSIZE, false));
            QuantizedTensor nested = Blockwise.quantize(s, device, new QuantConfig(type, BLOCKSIZE, true));
            out.put("absmax", on.download(plain.absmax()));
            out.put("packed", on.download(plain.packed()));
            out.put("dequant", on.filled(x.dtype(), x.shape(), t -> Blockwise.dequantize(s, plain, t)));
            out.put("offset", on.download(nested.offset()));
            out.put("nested.absmax2", on.download(nested.absmax2()));
            out.put("nested.absmax", on.download(nested.absmax()));
            out.put("nested.scales", on.filled(DType.F32, new long[]{nested.absmax().size()},
                    t -> Blockwise.scales(s, nested, t)));
            out.put("nested.dequant", on.filled(x.dtype(), x.shape(), t -> Blockwise.dequantize(s, nested, t)));
        }
        return out;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        return new PlainQuantizer(type.codebook(), BLOCKSIZE, fault, offset).run(x);
    }
}
