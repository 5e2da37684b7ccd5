package qlora4j.cli;

import java.util.Map;
import picocli.CommandLine.Option;
import qlora4j.tensor.DType;

/** The type a command computes in. */
final class ComputeOptions {
    private static final Map<String, DType> TYPES = Map.of("float32", DType.F32, "fp32", DType.F32, "bfloat16",
            DType.BF16, "bf16", DType.BF16, "float64", DType.F64);

    @Option(names = "--compute-dtype", paramLabel = "TYPE",
            description = "float32 or bfloat16, and float64 on the scalar backend (default: float32).")
    private String dtype;

    @Option(names = "--bf16", arity = "0..1", fallbackValue = "true", paramLabel = "BOOL",
            description = "The same as --compute-dtype bfloat16.")
    private boolean bf16;

    /** The type that was asked for. */
    DType dtype() {
        if (dtype == null) {
            return bf16 ? DType.BF16 : DType.F32;
        }
        DType type = TYPES.get(dtype);
        if (type == null) {
            throw new IllegalArgumentException("--compute-dtype " + dtype + ": expected float32, bfloat16 or float64");
        }
        if (bf16 && type != DType.BF16) {
            throw new IllegalArgumentException("--bf16 and --compute-dtype " + dtype + " contradict each other");
        }
        return type;
    }
}
