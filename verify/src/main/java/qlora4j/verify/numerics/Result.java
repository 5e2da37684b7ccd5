package qlora4j.verify.numerics;

import java.util.EnumMap;
import java.util.Map;
import qlora4j.tensor.Backend;

/**
 * The results that are measured, and the one place of their budgets: the largest error allowed, in units in the last
 * place of the result's magnitude (see {@link Numerics}). 0: the scalar backend's bits. Those of
 * scalar and cpu are about twice what was measured at the worst width. Those of cuda are two to four times what an H100
 * with cuBLAS 13.1 gave: products are summed in another order where cuBLAS is missing or of another version; NaN where
 * it has not been measured.
 */
public enum Result {
    QUANTIZE_CODES("quantize, NF4", "packed", 0, 0, 0), //
    QUANTIZE_ABSMAX("quantize, NF4", "absmax codes", 0, 0, 0), //
    QUANTIZE_OFFSET("quantize, NF4", "offset", 0, 0, 0), //
    DEQUANTIZE("dequantize, NF4", "float32", 0, 0, 0), //
    DEQUANTIZE_BF16("dequantize, NF4", "bfloat16", 0, 0, 0), //
    QUANTIZE_FP4("quantize, FP4", "packed", 0, 0, 0), //
    MATMUL_NT("matmul, dense", "x·Wᵀ", 1, 5, 6), //
    MATMUL_NN("matmul, dense", "dy·W", 1, 5, 6), //
    MATMUL_TN("matmul, dense", "dyᵀ·x", 1, 7, 10), //
    LINEAR_Y("linear, NF4", "y", 1, 4, 6), //
    LINEAR_DX("linear, NF4", "dx", 1, 6, 6), //
    LORA_U("lora, NF4", "u", 1, 4, 5), //
    LORA_Y("lora, NF4", "y", 1, 3, 4), //
    LORA_DX("lora, NF4", "dx", 1, 4, 4), //
    LORA_DA("lora, NF4", "dA", 1.5, 4, 4), //
    LORA_DB("lora, NF4", "dB", 1, 3, 4), //
    DORA_Y("dora, NF4", "y", 1, 3, 3), //
    DORA_DX("dora, NF4", "dx", 1.5, 5, 4), //
    DORA_DA("dora, NF4", "dA", 1.5, 4, 4), //
    DORA_DB("dora, NF4", "dB", 1.5, 3, 3), //
    DORA_DMAGNITUDE("dora, NF4", "dMagnitude", 1, 1.5, 1.5), //
    EMBEDDING("embedding", "out", 0, 0, 0), //
    EMBEDDING_GRADIENT("embedding", "dTable", 2, 2, 2), //
    RMSNORM_Y("rmsnorm", "y", 4, 7, 7), //
    RMSNORM_DX("rmsnorm", "dx", 2.5, 6, 6), //
    RMSNORM_DWEIGHT("rmsnorm", "dWeight", 2.5, 7, 7), //
    ROPE_Q("rope", "q", 1, 2.5, 2.5), //
    ATTENTION_OUT("attention", "out", 1, 9, 10), //
    ATTENTION_LSE("attention", "lse", 1, 2, 3), //
    ATTENTION_DQ("attention", "dq", 1, 2, 3), //
    ATTENTION_DK("attention", "dk", 1, 2.5, 4), //
    ATTENTION_DV("attention", "dv", 4, 11, 14), //
    SWIGLU_OUT("swiglu", "out", 2.5, 5, 6), //
    SWIGLU_DGATE("swiglu", "dGate", 1, 6, 8), //
    SWIGLU_DUP("swiglu", "dUp", 1, 5, 6), //
    CROSS_ENTROPY_NLL("cross-entropy", "nll", 1, 2, 2), //
    CROSS_ENTROPY_GRADIENT("cross-entropy", "dlogits", 1, 36, 40), //
    CROSS_ENTROPY_LOSS("cross-entropy", "sum of nll", 1, 1, 1), //
    CLIP_NORM("clipping", "norm", 0, 0, 0), //
    ADAMW_TORCH("adamw, torch", "params", 0, 0, 0), //
    ADAMW_BITSANDBYTES("adamw, bitsandbytes", "params", 0, 0, 0), //
    ADAMW_8BIT("adamw, 8 bits", "params and codes", 0, 0, 0), //
    ADAMW_TORCH_PARAMS("adamw, torch", "params, of float64's", 3, 3, 3), //
    ADAMW_TORCH_M("adamw, torch", "m, of float64's", 3, 3, 3), //
    ADAMW_TORCH_V("adamw, torch", "v, of float64's", 4, 4, 4), //
    ADAMW_BITSANDBYTES_PARAMS("adamw, bitsandbytes", "params, of float64's", 130, 130, 130), //
    ADAMW_BITSANDBYTES_M("adamw, bitsandbytes", "m, of float64's", 9, 9, 9), //
    ADAMW_BITSANDBYTES_V("adamw, bitsandbytes", "v, of float64's", 450, 450, 450), //
    MATMUL_NT_IN_BF16("matmul, dense, bf16", "x·Wᵀ", 1, 1, 1), //
    MATMUL_NN_IN_BF16("matmul, dense, bf16", "dy·W", 1, 1, 1), //
    LINEAR_Y_IN_BF16("linear, NF4, bf16", "y", 1, 1, 1), //
    LINEAR_DX_IN_BF16("linear, NF4, bf16", "dx", 1, 1, 1), //
    LORA_Y_IN_BF16("lora, NF4, bf16", "y", 1, 1, 1), //
    LORA_DX_IN_BF16("lora, NF4, bf16", "dx", 1, 1, 1), //
    LORA_DA_IN_BF16("lora, NF4, bf16", "dA", 2, 6, 60000), //
    LORA_DB_IN_BF16("lora, NF4, bf16", "dB", 1, 2.5, 30000), //
    DORA_Y_IN_BF16("dora, NF4, bf16", "y", 1, 1, 1.5), //
    DORA_DX_IN_BF16("dora, NF4, bf16", "dx", 1, 1, 1), //
    DORA_DMAGNITUDE_IN_BF16("dora, NF4, bf16", "dMagnitude", 14000, 14000, 28000), //
    RMSNORM_Y_IN_BF16("rmsnorm, bf16", "y", 2.5, 2.5, 2.5), //
    RMSNORM_DX_IN_BF16("rmsnorm, bf16", "dx", 1, 1, 1), //
    ROPE_Q_IN_BF16("rope, bf16", "q", 1, 1, 1), //
    ATTENTION_OUT_IN_BF16("attention, bf16", "out", 1, 1, 2), //
    ATTENTION_DQ_IN_BF16("attention, bf16", "dq", 1, 1, 1), //
    ATTENTION_DK_IN_BF16("attention, bf16", "dk", 1, 1, 1), //
    ATTENTION_DV_IN_BF16("attention, bf16", "dv", 1, 1, 2), //
    SWIGLU_OUT_IN_BF16("swiglu, bf16", "out", 2.5, 2.5, 2.5), //
    SWIGLU_DGATE_IN_BF16("swiglu, bf16", "dGate", 1, 1, 1), //
    SWIGLU_DUP_IN_BF16("swiglu, bf16", "dUp", 1, 1, 1),;

    private static final Map<Result, Result> IN_BFLOAT16 = new EnumMap<>(Result.class);

    static {
        for (Result r : values()) {
            String ending = "_IN_BF16";
            if (r.name().endsWith(ending)) {
                IN_BFLOAT16.put(valueOf(r.name().substring(0, r.name().length() - ending.length())), r);
            }
        }
    }

    private final String operation;
    private final String what;
    private final double scalar;
    private final double cpu;
    private final double cuda;

    Result(String operation, String what, double scalar, double cpu, double cuda) {
        this.operation = operation;
        this.what = what;
        this.scalar = scalar;
        this.cpu = cpu;
        this.cuda = cuda;
    }

    /** The operation's name. */
    public String operation() {
        return operation;
    }

    /** The tensor's. */
    public String what() {
        return what;
    }

    /** Whether every backend gives the same bits. */
    public boolean isExact() {
        return scalar == 0;
    }

    /** The same with bfloat16 activations, or null where that is not measured. */
    public Result inBfloat16() {
        return IN_BFLOAT16.get(this);
    }

    /** The largest error allowed on the backend of a name; NaN where there is none yet. */
    public double budget(String backend) {
        return switch (backend) {
            case Backend.SCALAR -> scalar;
            case Backend.CPU -> cpu;
            case Backend.CUDA -> cuda;
            default -> throw new IllegalArgumentException("the backend " + backend + " has no budgets");
        };
    }
}
