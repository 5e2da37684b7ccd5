/**
 * The safetensors format, read and written: a little-endian length, a JSON header, the bytes of the tensors.
 *
 * <p>{@link qlora4j.safetensors.Safetensors} opens one file, {@link qlora4j.safetensors.SafetensorsModel} a model
 * directory with one file or an index and its shards; both are a {@link qlora4j.safetensors.SafetensorsView}. Files are
 * memory-mapped and nothing is copied: a tensor is a slice of the mapping, as a {@code MemorySegment}, as a
 * {@code Tensor}, or as an Arrow buffer or vector. {@link qlora4j.safetensors.SafetensorsWriter} writes. A malformed
 * file is refused with a {@link qlora4j.safetensors.SafetensorsException}, whose kind says what is wrong with it.
 *
 * <pre>{@code
 * try (SafetensorsView model = SafetensorsModel.open(Path.of("MODEL_DIR"))) {
 *     for (String name : model.names()) {
 *         System.out.println(model.info(name));
 *     }
 *     Tensor norm = model.tensor("model.norm.weight");
 *     new SafetensorsWriter().metadata("format", "pt").add("norm", norm).write(Path.of("norm.safetensors"));
 * }
 * }</pre>
 *
 * <p>Only the methods that give Arrow memory need Arrow's libraries on the class path and its two flags,
 * {@code --add-opens=java.base/java.nio=ALL-UNNAMED --sun-misc-unsafe-memory-access=allow}.
 *
 * <p>Format: the huggingface/safetensors README. The dtypes are those of its release 0.8.0.
 */
package qlora4j.safetensors;
