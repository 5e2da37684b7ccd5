package qlora4j.cuda;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.invoke.MethodHandle;
import qlora4j.cuda.Products.Matrix;

/**
 * Tensor maps, by which the copy engine of compute capability 9.0 finds boxes of a matrix: the driver's
 * {@code cuTensorMapEncodeTiled}, which the binding does not have. Boxes are 64 elements of bfloat16 wide and lie in
 * shared memory in the 128-byte swizzle; what is outside of the matrix reads as zeros and is not written.
 */
final class TensorMaps {
    static final int BYTES = 128;
    static final int ALIGNMENT = 64;
    static final int BOX_COLUMNS = 64;
    /** Addresses and distances of rows are multiples of so many bytes. */
    private static final int UNIT = 16;

    private static final int BFLOAT16 = 9;
    private static final int NOT_INTERLEAVED = 0;
    private static final int SWIZZLE_128B = 3;
    private static final int PROMOTE_128B = 2;
    private static final int ZEROS_OUTSIDE = 0;

    private static final MethodHandle ENCODE = Linker.nativeLinker().downcallHandle(
            SymbolLookup.libraryLookup(CudaDriver.LIBRARY, Arena.global()).findOrThrow("cuTensorMapEncodeTiled"),
            FunctionDescriptor.of(JAVA_INT, ADDRESS, JAVA_INT, JAVA_INT, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS,
                    JAVA_INT, JAVA_INT, JAVA_INT, JAVA_INT));

    private final MemorySegment dims = Arena.ofAuto().allocate(JAVA_LONG, 3);
    private final MemorySegment boxes = Arena.ofAuto().allocate(JAVA_INT, 4);

    /** Whether the copy engine can address {@code m}. */
    static boolean takes(Matrix m) {
        return m.type().bytes() == 2 && m.address() % UNIT == 0 && m.type().bytes((long) m.stride()) % UNIT == 0
                && m.elements() > 0;
    }

    /** Writes the map of a bfloat16 matrix that it {@link #takes}, for boxes of so many rows, to {@code to}. */
    void write(Matrix m, int boxRows, MemorySegment to) {
        dims.setAtIndex(JAVA_LONG, 0, m.cols());
        dims.setAtIndex(JAVA_LONG, 1, m.rows());
        dims.setAtIndex(JAVA_LONG, 2, m.type().bytes((long) m.stride()));
        boxes.setAtIndex(JAVA_INT, 0, BOX_COLUMNS);
        boxes.setAtIndex(JAVA_INT, 1, boxRows);
        boxes.setAtIndex(JAVA_INT, 2, 1);
        boxes.setAtIndex(JAVA_INT, 3, 1);
        int rc;
        try {
            rc = (int) ENCODE.invokeExact(to, BFLOAT16, 2, MemorySegment.ofAddress(m.address()), dims,
                    dims.asSlice(2L * Long.BYTES), boxes, boxes.asSlice(2L * Integer.BYTES), NOT_INTERLEAVED,
                    SWIZZLE_128B, PROMOTE_128B, ZEROS_OUTSIDE);
        } catch (Throwable e) {
            throw new IllegalStateException("cuTensorMapEncodeTiled", e);
        }
        CudaDriver.check(rc, "cuTensorMapEncodeTiled of " + m);
    }
}
