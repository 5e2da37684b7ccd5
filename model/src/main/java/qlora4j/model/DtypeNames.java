package qlora4j.model;

import java.util.LinkedHashMap;
import java.util.Map;
import qlora4j.tensor.DType;

/** The names that configurations give to dtypes: PyTorch's. */
final class DtypeNames {
    private static final Map<String, DType> BY_NAME = new LinkedHashMap<>();

    static {
        BY_NAME.put("float32", DType.F32);
        BY_NAME.put("bfloat16", DType.BF16);
        BY_NAME.put("float16", DType.F16);
        BY_NAME.put("float64", DType.F64);
    }

    private DtypeNames() {
    }

    /** The dtype of a name such as {@code bfloat16} or {@code torch.bfloat16}. */
    static DType parse(String name) {
        DType dtype = BY_NAME.get(name.startsWith("torch.") ? name.substring("torch.".length()) : name);
        if (dtype == null) {
            throw new IllegalArgumentException("dtype \"" + name + "\" is not supported; supported are "
                    + String.join(", ", BY_NAME.keySet()));
        }
        return dtype;
    }

    static String name(DType dtype) {
        for (Map.Entry<String, DType> e : BY_NAME.entrySet()) {
            if (e.getValue() == dtype) {
                return e.getKey();
            }
        }
        throw new IllegalArgumentException(dtype + " is no dtype of a model");
    }
}
