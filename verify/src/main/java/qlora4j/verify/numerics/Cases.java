package qlora4j.verify.numerics;

import java.util.EnumMap;
import java.util.List;
import java.util.Map;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Linear;
import qlora4j.lora.LinearWeight;
import qlora4j.lora.LoraPair;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** The products and what is exact; the decoder's are {@link DecoderCases}. */
final class Cases {
    /** Few rows and many are different kernels; none but 1 is a multiple of anything a kernel has. */
    static final int[] ROWS = {1, 3, 19};
    /** Not multiples of a block or a tile. */
    static final int IN = 136;
    static final int OUT = 75;
    static final int RANK = 6;
    static final float SCALE = 2;

    static final List<Case> ALL = List.of(Cases::quantize, Cases::matmul, Cases::linear, Cases::lora,
            new DoraCase(), DecoderCases::embedding, new DecoderCases.Norm(), new DecoderCases.Rope(),
            new AttentionCase(), new DecoderCases.Swiglu(), new DecoderCases.CrossEntropy(), OptimCases::clip,
            new OptimCases.AdamW(), OptimCases::adamW8);
    /** Those that are measured with bfloat16 activations too. */
    static final List<Case> BFLOAT16 = List.of(Cases::matmul, Cases::linear, Cases::lora, new DoraCase(),
            new DecoderCases.Norm(), new DecoderCases.Rope(), new AttentionCase(), new DecoderCases.Swiglu());

    private Cases() {
    }

    private static Map<Result, Tensor> quantize(OnBackend on, Samples in) {
        Map<Result, Tensor> out = new EnumMap<>(Result.class);
        Stream s = on.stream();
        Tensor w = on.copy(in.float32(0, 0.02, OUT, IN + in.rows()));
        QuantizedTensor q = Blockwise.quantize(s, w, QuantConfig.QLORA);
        out.put(Result.QUANTIZE_CODES, on.download(q.packed()));
        out.put(Result.QUANTIZE_ABSMAX, on.download(q.absmax()));
        out.put(Result.QUANTIZE_OFFSET, on.download(q.offset()));
        out.put(Result.DEQUANTIZE, on.filled(DType.F32, w.shape(), t -> Blockwise.dequantize(s, q, t)));
        out.put(Result.DEQUANTIZE_BF16, on.filled(DType.BF16, w.shape(), t -> Blockwise.dequantize(s, q, t)));
        out.put(Result.QUANTIZE_FP4, on.download(
                Blockwise.quantize(s, w, new QuantConfig(QuantType.FP4, QuantConfig.QLORA.blocksize(), true))
                        .packed()));
        return out;
    }

    private static Map<Result, Tensor> matmul(OnBackend on, Samples in) {
        Stream s = on.stream();
        Tensor x = on.copy(in.normal(1, 1, in.rows(), IN));
        Tensor dy = on.copy(in.normal(2, 1, in.rows(), OUT));
        Tensor w = on.copy(in.normal(3, 0.1, OUT, IN));
        Map<Result, Tensor> out = new EnumMap<>(Result.class);
        out.put(Result.MATMUL_NT, on.filled(in.type(), dy.shape(), t -> Matmul.nt(s, x, w, 1, t, false)));
        out.put(Result.MATMUL_NN, on.filled(in.type(), x.shape(), t -> Matmul.nn(s, dy, w, 1, t, false)));
        out.put(Result.MATMUL_TN, on.filled(in.wide(), w.shape(), t -> Matmul.tn(s, dy, x, 1, t, false)));
        return out;
    }

    private static Map<Result, Tensor> linear(OnBackend on, Samples in) {
        return linear(on, in, false);
    }

    private static Map<Result, Tensor> lora(OnBackend on, Samples in) {
        return linear(on, in, true);
    }

    private static Map<Result, Tensor> linear(OnBackend on, Samples in, boolean adapted) {
        Stream s = on.stream();
        Linear linear = new Linear("linear", 0, weight(on, in), on.copy(in.normal(4, 1, OUT)));
        Tensor dA = on.copy(Tensor.zeros(in.wide(), RANK, IN));
        Tensor dB = on.copy(Tensor.zeros(in.wide(), OUT, RANK));
        if (adapted) {
            linear.set(0, new LoraPair(on.copy(in.parameters(5, 0.1, RANK, IN)),
                    on.copy(in.parameters(6, 0.1, OUT, RANK)),
                    SCALE, dA, dB));
        }
        Linear.Adapters use = adapted ? Linear.Adapters.of(0) : Linear.Adapters.NONE;
        Tensor x = on.copy(in.normal(1, 1, in.rows(), IN));
        Tensor dy = on.copy(in.normal(2, 1, in.rows(), OUT));
        Tensor[] u = new Tensor[1];
        Map<Result, Tensor> out = new EnumMap<>(Result.class);
        out.put(adapted ? Result.LORA_Y : Result.LINEAR_Y,
                on.filled(in.type(), dy.shape(), t -> u[0] = linear.forward(s, use, x, null, t)));
        out.put(adapted ? Result.LORA_DX : Result.LINEAR_DX,
                on.filled(in.type(), x.shape(), t -> linear.backward(s, use, dy, x, u[0], false, t)));
        if (adapted) {
            out.put(Result.LORA_U, on.download(u[0]));
            out.put(Result.LORA_DA, on.download(dA));
            out.put(Result.LORA_DB, on.download(dB));
            s.release(u[0]);
        }
        return out;
    }

    /**
     * The weight in 4 bits; for what is exact a dense one of the same numbers, which are rounded to the activations' type,
     * and for magnitudes their absolute values.
     */
    static LinearWeight weight(OnBackend on, Samples in) {
        QuantizedTensor q = Blockwise.quantize(on.stream(), on.copy(in.float32(3, 0.1, OUT, IN)), QuantConfig.QLORA);
        if (in.type() != DType.F64) {
            return new LinearWeight.Quantized(q);
        }
        Tensor rounded = on.filled(in.values(), new long[]{OUT, IN}, t -> Blockwise.dequantize(on.stream(), q, t));
        Tensor w = Tensor.zeros(DType.F64, OUT, IN).copyFrom(rounded);
        for (long i = 0; i < w.size() && in.absolute(); i++) {
            w.set(i, Math.abs(w.get(i)));
        }
        return new LinearWeight.Dense(w);
    }
}
