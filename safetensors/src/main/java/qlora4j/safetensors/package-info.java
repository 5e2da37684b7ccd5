/**
 * The safetensors format, read and written: a little-endian length, a JSON header, the bytes of the tensors.
 *
 * <p>{@link qlora4j.safetensors.Safetensors} opens one file, {@link qlora4j.safetensors.SafetensorsModel} a model
 * directory with one file or an index and its shards; both are a {@link qlora4j.safetensors.SafetensorsView}. Files are
 * memory-mapped and nothing is copied: a tensor is a slice of the mapping, as a {@code MemorySegment}, as a
 * {@code Tensor}, or as an Arrow buffer or vector. {@link qlora4j.safetensors.SafetensorsWriter} writes. A malformed
 * file is refused with a {@link qlora4j.safetensors.SafetensorsException}, whose kind says what is wrong with it.
 *
 * <p>Format: the huggingface/safetensors README. The dtypes are those of its release 0.8.0.
 */
package qlora4j.safetensors;
