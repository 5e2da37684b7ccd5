package qlora4j.safetensors;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import qlora4j.safetensors.SafetensorsException.Kind;
import qlora4j.tensor.DType;

/** The declared tensors of one file, checked against each other and against the bytes that are there. */
record Header(Map<String, TensorInfo> tensors, Map<String, String> metadata) {
    /** Bytes of the header's length at the start of a file. */
    static final int LENGTH_BYTES = 8;
    /** The longest header that is read or written, as in the reference implementation. */
    static final long MAX_BYTES = 100_000_000;
    static final String METADATA = "__metadata__";
    static final String DTYPE = "dtype";
    static final String SHAPE = "shape";
    static final String OFFSETS = "data_offsets";

    private static final Map<String, DType> DTYPES = dtypes();

    /** One tensor as its header entry declares it; offsets count from the end of the header. */
    record Entry(String name, DType dtype, long[] shape, long begin, long end) {
    }

    private static Map<String, DType> dtypes() {
        Map<String, DType> byName = new HashMap<>();
        for (DType d : DType.values()) {
            byName.put(d.name(), d);
        }
        return Map.copyOf(byName);
    }

    /** The dtype of a name of the format, or null. */
    static DType dtype(String name) {
        return DTYPES.get(name);
    }

    /**
     * Bytes of a tensor.
     *
     * @throws ArithmeticException if its bits pass a long; the product is taken from the left, so a zero dimension
     *     cannot hide an overflow before it
     * @throws IllegalArgumentException if its elements do not fill whole bytes
     */
    static long bytes(DType dtype, long[] shape) {
        long elements = 1;
        for (long d : shape) {
            elements = Math.multiplyExact(elements, d);
        }
        return dtype.bytes(elements);
    }

    /**
     * Checks that every entry's span is its shape times its dtype and that the spans tile the data exactly.
     *
     * @param start where the data begin in the file
     * @param available bytes of the file after the header
     * @return the tensors in the order of their bytes
     */
    static List<TensorInfo> check(Path file, List<Entry> entries, long start, long available)
            throws SafetensorsException {
        for (Entry e : entries) {
            checkSpan(file, e, available);
        }
        List<Entry> order = new ArrayList<>(entries);
        order.sort(Comparator.comparingLong(Entry::begin).thenComparingLong(Entry::end));
        List<TensorInfo> tensors = new ArrayList<>(order.size());
        long next = 0;
        Entry before = null;
        for (Entry e : order) {
            if (e.begin < next) {
                throw new SafetensorsException(Kind.OFFSETS_OVERLAP, file, e.name, "its bytes " + span(e)
                        + " overlap bytes " + span(before) + " of tensor " + SafetensorsException.quote(before.name));
            }
            if (e.begin > next) {
                throw new SafetensorsException(Kind.OFFSETS_GAP, file, e.name, "its data begin at " + e.begin
                        + ", but the data before end at " + next + ": the bytes between belong to no tensor");
            }
            tensors.add(new TensorInfo(e.name, e.dtype, e.shape, file, start + e.begin, e.end - e.begin));
            next = e.end;
            before = e;
        }
        if (next != available) {
            throw new SafetensorsException(Kind.TRAILING_BYTES, file, null, (available - next)
                    + " bytes follow the last tensor's data, which end at byte " + (start + next) + " of the file");
        }
        return tensors;
    }

    private static void checkSpan(Path file, Entry e, long available) throws SafetensorsException {
        if (e.end < e.begin) {
            throw new SafetensorsException(Kind.OFFSETS_BACKWARDS, file, e.name,
                    OFFSETS + " " + span(e) + " run backwards");
        }
        if (e.end > available) {
            throw new SafetensorsException(Kind.OFFSETS_PAST_END, file, e.name, OFFSETS + " " + span(e)
                    + " end after the file's " + available + " data bytes; is the file cut short?");
        }
        String what = e.dtype + HeaderParser.show(e.shape);
        long bytes;
        try {
            bytes = bytes(e.dtype, e.shape);
        } catch (ArithmeticException overflow) {
            throw new SafetensorsException(Kind.SHAPE_OVERFLOW, file, e.name, what + " overflows a 64-bit size");
        } catch (IllegalArgumentException partial) {
            throw new SafetensorsException(Kind.PARTIAL_BYTE, file, e.name, what + " does not fill whole bytes");
        }
        if (bytes != e.end - e.begin) {
            throw new SafetensorsException(Kind.SPAN_MISMATCH, file, e.name, what + " needs " + bytes + " bytes, but "
                    + OFFSETS + " " + span(e) + " hold " + (e.end - e.begin));
        }
    }

    private static String span(Entry e) {
        return "[" + e.begin + ", " + e.end + "]";
    }
}
