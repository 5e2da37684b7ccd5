/**
 * The bundled demo model's text: a seeded generator of instruction/response pairs, and the trainer of its byte-level BPE
 * tokenizer. {@code docs/demo-model.md} tells what each family is for and how well a small model learns it.
 */
package qlora4j.train.demo;
