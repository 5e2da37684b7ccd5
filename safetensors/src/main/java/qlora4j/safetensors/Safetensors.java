package qlora4j.safetensors;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.BufferAllocator;
import org.apache.arrow.vector.FieldVector;
import qlora4j.safetensors.SafetensorsException.Kind;
import qlora4j.tensor.Tensor;

/** One safetensors file, mapped. Opening it checks the whole header; the tensors' bytes are not touched. */
public final class Safetensors implements SafetensorsView {
    private static final ValueLayout.OfLong LENGTH = ValueLayout.JAVA_LONG_UNALIGNED
            .withOrder(ByteOrder.LITTLE_ENDIAN);

    private final Path file;
    private final Mapping mapping;
    private final Header header;
    private final List<String> names;

    private Safetensors(Path file, Mapping mapping, Header header) {
        this.file = file;
        this.mapping = mapping;
        this.header = header;
        this.names = List.copyOf(header.tensors().keySet());
    }

    /**
     * Opens a file.
     *
     * @throws SafetensorsException if it is malformed
     * @throws IOException if it cannot be read
     */
    public static Safetensors open(Path file) throws IOException {
        Mapping mapping = Mapping.of(file);
        try {
            return new Safetensors(file, mapping, header(file, mapping.bytes()));
        } catch (IOException | RuntimeException | Error e) {
            mapping.close();
            throw e;
        }
    }

    private static Header header(Path file, MemorySegment bytes) throws SafetensorsException {
        long size = bytes.byteSize();
        if (size < Header.LENGTH_BYTES) {
            throw new SafetensorsException(Kind.FILE_TOO_SHORT, file, null, "the file has " + size
                    + " bytes; a safetensors file starts with the " + Header.LENGTH_BYTES + " of its header's length");
        }
        long length = bytes.get(LENGTH, 0);
        if (length < 0) {
            throw new SafetensorsException(Kind.HEADER_LENGTH_NEGATIVE, file, null, "the header's length is "
                    + Long.toUnsignedString(length) + ", " + length
                    + " as a signed number; is this a safetensors file?");
        }
        if (length > Header.MAX_BYTES) {
            throw new SafetensorsException(Kind.HEADER_TOO_LARGE, file, null, "the header's length is " + length
                    + " bytes, over the limit of " + Header.MAX_BYTES + "; is this a safetensors file?");
        }
        long available = size - Header.LENGTH_BYTES - length;
        if (available < 0) {
            throw new SafetensorsException(Kind.HEADER_PAST_END, file, null, "the header's length is " + length
                    + " bytes, but only " + (size - Header.LENGTH_BYTES) + " follow; is the file cut short?");
        }
        byte[] json = bytes.asSlice(Header.LENGTH_BYTES, length).toArray(ValueLayout.JAVA_BYTE);
        return HeaderParser.parse(file, json, available);
    }

    /** The file that is open. */
    public Path file() {
        return file;
    }

    @Override
    public List<String> names() {
        return names;
    }

    @Override
    public boolean contains(String name) {
        return header.tensors().containsKey(name);
    }

    @Override
    public TensorInfo info(String name) {
        TensorInfo info = header.tensors().get(name);
        if (info == null) {
            throw new IllegalArgumentException(missing(file, name, names));
        }
        return info;
    }

    static String missing(Path where, String name, List<String> names) {
        return where + ": there is no tensor " + SafetensorsException.quote(name) + " among its " + names.size()
                + (names.isEmpty() ? "" : ", the first of which is " + SafetensorsException.quote(names.getFirst()));
    }

    @Override
    public Map<String, String> metadata() {
        return header.metadata();
    }

    @Override
    public MemorySegment segment(String name) {
        TensorInfo info = info(name);
        return mapping.bytes().asSlice(info.offset(), info.bytes());
    }

    @Override
    public Tensor tensor(String name) {
        TensorInfo info = info(name);
        return Tensor.of(info.dtype(), segment(name), info.shape());
    }

    @Override
    public void unload(String name) {
        segment(name).unload();
    }

    @Override
    public ArrowBuf arrowBuffer(String name, BufferAllocator allocator) {
        return ArrowView.buffer(mapping, info(name), allocator);
    }

    @Override
    public FieldVector arrowVector(String name, BufferAllocator allocator) {
        return ArrowView.vector(mapping, info(name), allocator);
    }

    @Override
    public void close() {
        mapping.close();
    }

    @Override
    public String toString() {
        return file + " (" + names.size() + " tensors)";
    }
}
