package qlora4j.blockwise;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.nf4.Codebook;
import qlora4j.nf4.Nibbles;
import qlora4j.safetensors.SafetensorsView;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.safetensors.TensorInfo;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * bitsandbytes' 4-bit checkpoint layout in safetensors files. A weight {@code NAME} of {@code n} elements is
 *
 * <pre>
 *   NAME                                       U8 [ceil(n / 2), 1]  packed codes
 *   NAME.absmax                                U8 [b] nested, else F32 [b]
 *   NAME.quant_map                             F32 [16]   the codebook
 *   NAME.nested_absmax                         F32 [c]    nested only
 *   NAME.nested_quant_map                      F32 [256]  nested only: the signed dynamic map
 *   NAME.quant_state.bitsandbytes__nf4|fp4     U8         JSON, see {@link QuantState}
 * </pre>
 *
 * with blocks and constants as {@link QuantizedTensor} describes them.
 */
public final class Bnb4bit {
    private static final String ABSMAX = ".absmax";
    private static final String QUANT_MAP = ".quant_map";
    private static final String NESTED_ABSMAX = ".nested_absmax";
    private static final String NESTED_QUANT_MAP = ".nested_quant_map";
    private static final String QUANT_STATE = ".quant_state.bitsandbytes__";

    private Bnb4bit() {
    }

    /** Whether a weight of this name (such as {@code model.layers.0.mlp.up_proj.weight}) is there in 4 bits. */
    public static boolean contains(SafetensorsView view, String name) {
        return stateType(view, name) != null;
    }

    /** Whether a tensor of this name belongs to a 4-bit weight beside its codes (constants, maps, state). */
    public static boolean isPartOfWeight(String name) {
        return name.endsWith(ABSMAX) || name.endsWith(QUANT_MAP) || name.endsWith(NESTED_ABSMAX)
                || name.endsWith(NESTED_QUANT_MAP) || name.contains(QUANT_STATE);
    }

    private static QuantType stateType(SafetensorsView view, String name) {
        for (QuantType type : QuantType.values()) {
            if (view.contains(name + QUANT_STATE + type)) {
                return type;
            }
        }
        return null;
    }

    /**
     * How a weight is held, from its quant_state alone: nothing else of the file is read.
     *
     * @throws IOException if there is none or it is malformed; the message names file and tensor
     */
    public static QuantConfig config(SafetensorsView view, String name) throws IOException {
        return state(view, name).config();
    }

    private static QuantState state(SafetensorsView view, String name) throws IOException {
        QuantType type = stateType(view, name);
        if (type == null) {
            throw new IOException("there is no 4-bit weight " + name + " (no " + name + QUANT_STATE + "nf4 or fp4)");
        }
        TensorInfo info = view.info(name + QUANT_STATE + type);
        QuantState state;
        try {
            state = QuantState.parse(view.segment(info.name()).toArray(ValueLayout.JAVA_BYTE));
        } catch (IOException e) {
            throw new IOException(where(info) + ": " + e.getMessage(), e);
        }
        if (state.config().type() != type) {
            throw new IOException(where(info) + ": its quant_type is " + state.config().type());
        }
        return state;
    }

    /**
     * Reads a weight. Codes and constants stay in the mapping, so {@code view} must stay open as long as they are
     * used; {@link QuantizedTensor#copyTo} moves them to a backend.
     *
     * @param name the weight's name, {@code .weight} included
     * @throws IOException if a part is missing or does not fit; the message names file and tensor
     */
    public static QuantizedTensor read(SafetensorsView view, String name) throws IOException {
        QuantState state = state(view, name);
        QuantConfig config = state.config();
        QuantType type = config.type();
        long n = elements(view.info(name + QUANT_STATE + type), state);
        checkMap(view, name + QUANT_MAP, type.codebook().quantMap());
        Tensor packed = codes(view, name, Nibbles.bytes(n));
        if (!config.nested()) {
            Tensor absmax = part(view, name + ABSMAX, DType.F32, config.blocks(n));
            return new QuantizedTensor(config, state.dtype(), state.shape(), packed, absmax, null, null);
        }
        checkMap(view, name + NESTED_QUANT_MAP, DynamicMap.SIGNED.table());
        return new QuantizedTensor(config, state.dtype(), state.shape(), packed,
                part(view, name + ABSMAX, DType.U8, config.blocks(n)),
                part(view, name + NESTED_ABSMAX, DType.F32, config.nestedBlocks(n)),
                Tensor.of(new float[]{state.offset()}, 1));
    }

    private static long elements(TensorInfo info, QuantState state) throws IOException {
        try {
            return Tensor.elements(state.shape());
        } catch (IllegalArgumentException | ArithmeticException e) {
            throw new IOException(where(info) + ": its shape is impossible: " + state, e);
        }
    }

    /** The packed codes; bitsandbytes can store their bytes under another element type. */
    private static Tensor codes(SafetensorsView view, String name, long bytes) throws IOException {
        TensorInfo info = info(view, name);
        if (info.bytes() != bytes) {
            throw new IOException(where(info) + " has " + info.bytes() + " bytes, its quant_state needs " + bytes);
        }
        return Tensor.of(DType.U8, view.segment(name), bytes);
    }

    private static Tensor part(SafetensorsView view, String name, DType dtype, long size) throws IOException {
        TensorInfo info = info(view, name);
        if (info.dtype() != dtype || info.elements() != size) {
            throw new IOException(where(info) + " has " + info.elements() + " elements of " + info.dtype()
                    + ", its quant_state needs " + size + " of " + dtype);
        }
        return view.tensor(name).view(size);
    }

    private static void checkMap(SafetensorsView view, String name, float[] expected) throws IOException {
        Tensor map = part(view, name, DType.F32, expected.length);
        for (int i = 0; i < expected.length; i++) {
            if (map.get(i) != expected[i]) {
                throw new IOException(where(view.info(name)) + ": entry " + i + " is " + map.get(i) + ", expected "
                        + expected[i] + "; only the standard codebooks are read");
            }
        }
    }

    private static TensorInfo info(SafetensorsView view, String name) throws IOException {
        if (!view.contains(name)) {
            throw new IOException("the 4-bit checkpoint has no tensor " + name);
        }
        return view.info(name);
    }

    private static String where(TensorInfo info) {
        return info.file() + ": " + info.name();
    }

    /**
     * Declares the tensors of a weight; their memory is read when the file is written.
     *
     * @param name the weight's name, {@code .weight} included
     * @param w in host memory, see {@link QuantizedTensor#toHost}
     */
    public static void write(SafetensorsWriter writer, String name, QuantizedTensor w) {
        QuantConfig config = w.config();
        Float offset = config.nested() ? Float.valueOf((float) w.offset().get(0)) : null;
        byte[] state = new QuantState(config, w.dtype(), w.shape(), offset).toJson();
        Tensor json = Tensor.zeros(DType.U8, state.length);
        json.data().copyFrom(MemorySegment.ofArray(state));
        writer.add(name, w.packed().view(w.packed().size(), 1));
        writer.add(name + ABSMAX, w.absmax());
        writer.add(name + QUANT_MAP, Tensor.of(config.type().codebook().quantMap(), Codebook.SIZE));
        if (config.nested()) {
            writer.add(name + NESTED_ABSMAX, w.absmax2());
            writer.add(name + NESTED_QUANT_MAP, Tensor.of(DynamicMap.SIGNED.table(), DynamicMap.SIZE));
        }
        writer.add(name + QUANT_STATE + config.type(), json);
    }
}
