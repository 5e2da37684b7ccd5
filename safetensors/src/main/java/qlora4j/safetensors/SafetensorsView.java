package qlora4j.safetensors;

import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Map;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.BufferAllocator;
import org.apache.arrow.vector.FieldVector;
import qlora4j.tensor.Tensor;

/**
 * Named tensors in mapped files: one file or the shards of a model. Nothing is copied. Segments and tensors are
 * read-only and can be used from any thread until the view is closed; a use after that throws
 * {@code IllegalStateException}. Arrow buffers keep the mapping alive until they are released, even past the view's end.
 *
 * <p>The files must not be shortened or overwritten in place while they are mapped (replacing them by a rename, as
 * {@link SafetensorsWriter} does, is safe).
 */
public interface SafetensorsView extends AutoCloseable {
    /** The tensors' names in the order of their bytes; of a model, shard after shard in the order of their names. */
    List<String> names();

    /** Whether there is a tensor of this name. */
    boolean contains(String name);

    /**
     * What a tensor is and where it lies.
     *
     * @throws IllegalArgumentException if there is no tensor of this name
     */
    TensorInfo info(String name);

    /** The free-form {@code __metadata__}, empty where absent. Of a model: all shards', the first shard's value wins. */
    Map<String, String> metadata();

    /** A tensor's bytes in the mapping, read-only. Its start is aligned only as the file's writer aligned it. */
    MemorySegment segment(String name);

    /** A tensor over its bytes in the mapping, read-only. */
    Tensor tensor(String name);

    /**
     * Lets the system take back the memory of a tensor's pages, which count as the process's once they were read. The
     * tensor stays usable: what is used again is read again.
     */
    void unload(String name);

    /**
     * A tensor's bytes as an Arrow buffer over the mapping: the caller closes it. Its memory is read-only, which Arrow
     * cannot express: a write through it ends the JVM. It may be longer than 2 GiB.
     */
    ArrowBuf arrowBuffer(String name, BufferAllocator allocator);

    /**
     * A tensor as a flat Arrow vector of its elements over the mapping, all valid: the caller closes it. The types that
     * Arrow lacks appear as their bits: bf16 as unsigned 16-bit, 8-bit floats and bool (one byte each) as unsigned
     * 8-bit, 6-bit and 4-bit floats as their packed bytes, complex as 8-byte fixed-size binary. Beside the mapping it
     * takes a bit per element for Arrow's validity bitmap.
     *
     * @throws IllegalArgumentException if the tensor has more than 2^31 - 1 elements, the most a vector holds: take
     *     {@link #arrowBuffer} then
     */
    FieldVector arrowVector(String name, BufferAllocator allocator);

    /** Closes the files. Closing twice is harmless. */
    @Override
    void close();
}
