package qlora4j.gguf;

/** The types of metadata values, in the order of their codes in a file. */
enum GgufValueType {
    UINT8(1), INT8(1), UINT16(2), INT16(2), UINT32(4), INT32(4), FLOAT32(4), BOOL(1), STRING(0), ARRAY(0), UINT64(
            8),
    INT64(8), FLOAT64(8);

    /** Bytes of a value; 0 where they vary. */
    private final int bytes;

    GgufValueType(int bytes) {
        this.bytes = bytes;
    }

    int bytes() {
        return bytes;
    }

    /** The fewest bytes that a value takes: a string has its length before it. */
    int leastBytes() {
        return bytes == 0 ? Long.BYTES : bytes;
    }

    /** The type of a code, or null. */
    static GgufValueType of(long code) {
        return code >= 0 && code < values().length ? values()[(int) code] : null;
    }
}
