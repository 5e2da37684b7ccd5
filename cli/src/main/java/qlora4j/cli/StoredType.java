package qlora4j.cli;

import java.util.Map;
import qlora4j.tensor.DType;

/** The types that {@code --dtype} stores a model's dense weights in. */
final class StoredType {
    private static final Map<String, DType> TYPES = Map.of("float32", DType.F32, "bfloat16", DType.BF16, "float16",
            DType.F16);

    private StoredType() {
    }

    /** The type of a flag's value; null where the flag was not given. */
    static DType of(String dtype) {
        if (dtype != null && !TYPES.containsKey(dtype)) {
            throw new IllegalArgumentException("--dtype " + dtype + ": expected float32, bfloat16 or float16");
        }
        return dtype == null ? null : TYPES.get(dtype);
    }
}
