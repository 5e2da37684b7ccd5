package qlora4j.verify;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Set;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.TensorInfo;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Changes single elements of a safetensors file that is not mapped meanwhile. */
final class SafetensorsEditor {
    private final Path file;
    private final byte[] bytes;
    private final Map<String, TensorInfo> tensors = new LinkedHashMap<>();

    SafetensorsEditor(Path file) throws IOException {
        this.file = file;
        this.bytes = Files.readAllBytes(file);
        try (Safetensors view = Safetensors.open(file)) {
            view.names().forEach(name -> tensors.put(name, view.info(name)));
        }
    }

    Set<String> names() {
        return tensors.keySet();
    }

    /** A tensor over the bytes that {@link #save} writes: what is set is saved. */
    Tensor tensor(String name) {
        TensorInfo info = tensors.get(name);
        MemorySegment data = MemorySegment.ofArray(bytes).asSlice(info.offset(), info.bytes());
        return Tensor.of(info.dtype(), data, info.shape());
    }

    /** Adds to one element. */
    void add(String name, long element, double amount) {
        Tensor t = tensor(name);
        t.set(element, t.get(element) + amount);
    }

    /** Multiplies every element. */
    void scale(String name, double factor) {
        Tensor t = tensor(name);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, t.get(i) * factor);
        }
    }

    /** Changes the lowest bit of an element: a code, an id, or a number's last place. */
    void lastBit(String name, long element) {
        TensorInfo info = tensors.get(name);
        DType dtype = info.dtype();
        bytes[Math.toIntExact(info.offset() + dtype.bytes(element))] ^= 1;
    }

    void save() throws IOException {
        Files.write(file, bytes);
    }
}
