package qlora4j.cuda;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.model.DecoderFaults;

/**
 * Where kernels leave what they find wrong in their data ({@code fault.cuh}): four ints of page-locked host memory, which
 * the GPU addresses as the host does. The backend looks at them whenever it has waited for its queue, so an error comes
 * at the first download or synchronization after the operation that found it, not from the call that enqueued it.
 */
final class CudaFaults implements AutoCloseable {
    private static final int BAD_TOKEN = 1;
    private static final int BAD_POSITION = 2;
    private static final int BAD_LABEL = 3;
    private static final int BAD_INDEX = 4;
    private static final int NAN_LOGIT = 5;
    private static final int NO_DISTRIBUTION = 6;

    private final MemorySegment memory;

    CudaFaults() {
        memory = Staging.pinned(4L * Integer.BYTES);
        memory.fill((byte) 0);
    }

    /** For the kernels' last argument. */
    long address() {
        return memory.address();
    }

    /** Throws what was found since the last call; called when the queue's work is done. */
    void check() {
        int fault = word(0);
        if (fault != 0) {
            int row = word(1);
            int value = word(2);
            int limit = word(3);
            memory.fill((byte) 0);
            throw error(fault, row, value, limit);
        }
    }

    private int word(int i) {
        return memory.getAtIndex(ValueLayout.JAVA_INT, i);
    }

    /** The error of the words that a kernel wrote. */
    static RuntimeException error(int fault, int row, int value, int limit) {
        return switch (fault) {
            case BAD_TOKEN -> DecoderFaults.token(row, value, limit);
            case BAD_POSITION -> DecoderFaults.position(row, value, limit);
            case BAD_LABEL -> DecoderFaults.label(row, value, limit);
            case BAD_INDEX -> new IndexOutOfBoundsException("row " + row + " refers to row " + value + " of " + limit);
            case NAN_LOGIT -> DecoderFaults.notANumber(row, value);
            case NO_DISTRIBUTION -> DecoderFaults.noDistribution(row,
                    value > 0 ? Double.POSITIVE_INFINITY : Double.NEGATIVE_INFINITY);
            default -> new IllegalStateException("a kernel reported fault " + fault + " at row " + row + ": " + value
                    + ", " + limit);
        };
    }

    @Override
    public void close() {
        Staging.unpin(memory);
    }
}
