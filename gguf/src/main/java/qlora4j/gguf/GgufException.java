package qlora4j.gguf;

import java.io.IOException;
import java.nio.file.Path;
import qlora4j.safetensors.SafetensorsException;

/** A file that is not a valid GGUF file, or holds what is not supported. The message names the file and what in it. */
public final class GgufException extends IOException {
    private static final long serialVersionUID = 1L;

    /** What is wrong: one kind per malformed input. */
    public enum Kind {
        /** The file ends before what its header announces. */
        TRUNCATED,
        /** The first four bytes are not {@code GGUF}. */
        BAD_MAGIC,
        /** The bytes are in big-endian order. */
        BIG_ENDIAN,
        /** A version of the format other than 2 and 3. */
        UNSUPPORTED_VERSION,
        /** More metadata entries or tensors than the file can hold. */
        COUNT_TOO_LARGE,
        /** A string or an array is longer than the file, or than what any model needs. */
        LENGTH_TOO_LARGE,
        /** A key or a name is not UTF-8, or a text of the metadata is not. */
        NOT_UTF8,
        /** A key is empty or too long, or a tensor's name is. */
        BAD_NAME,
        /** A metadata key stands twice. */
        DUPLICATE_KEY,
        /** A metadata value's type is none of the format's. */
        UNKNOWN_VALUE_TYPE,
        /** An array of arrays. */
        NESTED_ARRAY,
        /** A boolean that is neither 0 nor 1. */
        BAD_BOOLEAN,
        /** {@code general.alignment} is not a power of two from 8 on. */
        BAD_ALIGNMENT,
        /** Two tensors have the same name. */
        DUPLICATE_TENSOR,
        /** A tensor has more than four dimensions. */
        TOO_MANY_DIMENSIONS,
        /** A tensor's type is none of ggml's. */
        UNKNOWN_TENSOR_TYPE,
        /** A tensor's elements or bytes pass 2^63 - 1. */
        SHAPE_OVERFLOW,
        /** A row is no multiple of its type's block. */
        PARTIAL_BLOCK,
        /** A tensor does not start at a multiple of the alignment. */
        UNALIGNED_TENSOR,
        /** A tensor ends after the file. */
        TENSOR_PAST_END,
        /** Two tensors share bytes. */
        TENSOR_OVERLAP,
        /** A metadata entry that is needed is not there. */
        MISSING_KEY,
        /** A metadata entry has another type or value than it may have. */
        BAD_VALUE,
        /** A tensor that the architecture needs is not there, or has another shape. */
        BAD_TENSOR,
        /** What the file holds cannot be imported. */
        UNSUPPORTED
    }

    private final Kind kind;

    GgufException(Kind kind, Path file, String message) {
        super(file + ": " + message);
        this.kind = kind;
    }

    /** What is wrong. */
    public Kind kind() {
        return kind;
    }

    /** {@link SafetensorsException#quote}. */
    static String quote(String text) {
        return SafetensorsException.quote(text);
    }
}
