/**
 * GGUF, the file format of llama.cpp: read, written, and turned into model directories and back.
 *
 * <p>{@link qlora4j.gguf.Gguf} opens a file and {@link qlora4j.gguf.GgufWriter} writes one; they know nothing of models.
 * {@link qlora4j.gguf.Dequantizer} knows the values of ggml's blocks. {@link qlora4j.gguf.GgufImport} makes a Hugging
 * Face model directory of a file, {@link qlora4j.gguf.GgufExport} a file of a directory or of a LoRA adapter.
 *
 * <p>Format: ggml/docs/gguf.md; names of metadata and tensors: the Python package {@code gguf} 0.17.1 and llama.cpp's
 * converter.
 */
package qlora4j.gguf;
