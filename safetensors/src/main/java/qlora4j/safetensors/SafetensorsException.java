package qlora4j.safetensors;

import java.io.IOException;
import java.nio.file.Path;

/** A file that is not a valid safetensors file or model. The message names the file and, where there is one, the tensor. */
public final class SafetensorsException extends IOException {
    private static final int SHOWN = 200;

    /** What is wrong: one kind per malformed input. */
    public enum Kind {
        /** Fewer than the 8 bytes of the header's length. */
        FILE_TOO_SHORT,
        /** The header's length is 2^63 or more: negative as a Java long. */
        HEADER_LENGTH_NEGATIVE,
        /** The header's length is over 100,000,000 bytes. */
        HEADER_TOO_LARGE,
        /** The header's length is within the limit, but reaches past the end of the file. */
        HEADER_PAST_END,
        /** The header's bytes are not UTF-8. */
        HEADER_NOT_UTF8,
        /** The header is not JSON (an escape of half a surrogate pair included), or something follows it. */
        HEADER_NOT_JSON,
        /** The header is JSON, but not an object. */
        HEADER_NOT_OBJECT,
        /** A tensor, a field of a tensor, a metadata key or a tensor of an index stands twice. */
        DUPLICATE_KEY,
        /** {@code __metadata__} is not an object. */
        METADATA_NOT_OBJECT,
        /** A value in {@code __metadata__} is not a string. */
        METADATA_NOT_STRING,
        /** A tensor's entry is not an object. */
        ENTRY_NOT_OBJECT,
        /** A tensor's entry lacks {@code dtype}, {@code shape} or {@code data_offsets}. */
        MISSING_FIELD,
        /** A tensor's entry has another field. */
        UNKNOWN_FIELD,
        /** {@code dtype} is not a string. */
        DTYPE_NOT_STRING,
        /** {@code dtype} is none of the format's. */
        UNKNOWN_DTYPE,
        /** {@code shape} is not an array of numbers. */
        SHAPE_NOT_NUMBERS,
        /** A dimension is negative. */
        NEGATIVE_DIMENSION,
        /** A dimension has a fraction or an exponent. */
        FRACTIONAL_DIMENSION,
        /** The dimensions, multiplied with each other and with the dtype's bits, pass 2^63 - 1. */
        SHAPE_OVERFLOW,
        /** The elements of a dtype smaller than a byte do not fill whole bytes. */
        PARTIAL_BYTE,
        /** {@code data_offsets} is not an array of two whole numbers from 0 to 2^63 - 1. */
        BAD_OFFSETS,
        /** {@code data_offsets} ends before it begins. */
        OFFSETS_BACKWARDS,
        /** {@code data_offsets} ends after the file. */
        OFFSETS_PAST_END,
        /** The span of {@code data_offsets} is not shape times dtype. */
        SPAN_MISMATCH,
        /** Two tensors share bytes. */
        OFFSETS_OVERLAP,
        /** Bytes before or between tensors belong to none. */
        OFFSETS_GAP,
        /** Bytes after the last tensor belong to none. */
        TRAILING_BYTES,
        /** A directory holds neither a single file nor an index. */
        NO_MODEL,
        /** An index is not a JSON object with a {@code weight_map} from tensor names to file names. */
        INDEX_MALFORMED,
        /** An index names a shard outside its directory. */
        SHARD_OUTSIDE_DIRECTORY,
        /** An index names a shard that is not there. */
        SHARD_MISSING,
        /** A shard lacks a tensor that the index promises in it. */
        TENSOR_NOT_IN_SHARD,
        /** Two shards hold a tensor of the same name. */
        TENSOR_IN_TWO_SHARDS
    }

    private final Kind kind;
    private final transient Path file;
    private final String tensor;

    SafetensorsException(Kind kind, Path file, String tensor, String message) {
        super(file + ": " + (tensor == null ? "" : "tensor " + quote(tensor) + ": ") + message);
        this.kind = kind;
        this.file = file;
        this.tensor = tensor;
    }

    SafetensorsException(Kind kind, Path file, String message, Throwable cause) {
        this(kind, file, null, message);
        initCause(cause);
    }

    /** What is wrong. */
    public Kind kind() {
        return kind;
    }

    /** The file that is malformed; null after deserialization. */
    public Path file() {
        return file;
    }

    /** The tensor concerned, or null where none is. */
    public String tensor() {
        return tensor;
    }

    /** Text of a file made fit for a message: in quotes, without control characters, cut where it is long. */
    public static String quote(String text) {
        StringBuilder out = new StringBuilder("'");
        int end = Math.min(text.length(), SHOWN);
        for (int i = 0; i < end; i++) {
            char c = text.charAt(i);
            if (Character.isISOControl(c) || Character.isSurrogate(c)) {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        if (end < text.length()) {
            out.append("...' (").append(text.length()).append(" characters)");
            return out.toString();
        }
        return out.append('\'').toString();
    }
}
