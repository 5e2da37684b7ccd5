package qlora4j.verify.fuzz;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.List;
import java.util.stream.Stream;
import qlora4j.gguf.GgmlType;
import qlora4j.gguf.Gguf;
import qlora4j.gguf.GgufImport;
import qlora4j.gguf.GgufTensor;
import qlora4j.gguf.GgufWriter;
import qlora4j.model.DecoderConfig;

/** A GGUF file: read, and imported to a model directory. */
final class GgufTarget extends FuzzTarget {
    private static final int HIDDEN = 4;
    private static final List<String> TOKENS = List.of("<unk>", "<s>", "</s>", "<0x0A>", "a", "b", "ab", "\u2581");

    GgufTarget() {
        super("gguf");
    }

    @Override
    int tries() {
        return 700;
    }

    @Override
    List<byte[]> seeds() throws IOException {
        return List.of(model("llama"), model("gpt2"), adapter());
    }

    private static byte[] bytes(GgufWriter writer) throws IOException {
        Path file = Files.createTempFile("seed", ".gguf");
        try {
            writer.write(file);
            return Files.readAllBytes(file);
        } finally {
            Files.delete(file);
        }
    }

    private static byte[] model(String tokenizer) throws IOException {
        GgufWriter w = new GgufWriter().text("general.architecture", "llama").text("general.name", "tiny")
                .uint32("llama.context_length", 16).uint32("llama.embedding_length", HIDDEN)
                .uint32("llama.feed_forward_length", HIDDEN).uint32("llama.block_count", 1)
                .uint32("llama.attention.head_count", 2).uint32("llama.attention.head_count_kv", 1)
                .float32("llama.attention.layer_norm_rms_epsilon", 1e-5).float32("llama.rope.freq_base", 1e4)
                .text("tokenizer.ggml.model", tokenizer).texts("tokenizer.ggml.tokens", TOKENS)
                .int32s("tokenizer.ggml.token_type", new int[]{2, 3, 3, tokenizer.equals("llama") ? 6 : 1, 1, 1, 1, 1})
                .uint32("tokenizer.ggml.bos_token_id", 1).uint32("tokenizer.ggml.eos_token_id", 2)
                .flag("tokenizer.ggml.add_bos_token", true)
                .text("tokenizer.chat_template", "{{ messages[0].content }}");
        if (tokenizer.equals("llama")) {
            w.float32s("tokenizer.ggml.scores", new float[]{0, 0, 0, 0, -1, -2, -3, -4});
        } else {
            w.text("tokenizer.ggml.pre", "gpt-2").texts("tokenizer.ggml.merges", List.of("a b"));
        }
        tensor(w, "token_embd.weight", TOKENS.size(), HIDDEN);
        tensor(w, "blk.0.attn_norm.weight", HIDDEN);
        tensor(w, "blk.0.attn_q.weight", HIDDEN, HIDDEN);
        tensor(w, "blk.0.attn_k.weight", HIDDEN / 2, HIDDEN);
        tensor(w, "blk.0.attn_v.weight", HIDDEN / 2, HIDDEN);
        tensor(w, "blk.0.attn_output.weight", HIDDEN, HIDDEN);
        tensor(w, "blk.0.ffn_norm.weight", HIDDEN);
        for (String name : List.of("gate", "up", "down")) {
            tensor(w, "blk.0.ffn_" + name + ".weight", HIDDEN, HIDDEN);
        }
        tensor(w, "output_norm.weight", HIDDEN);
        return bytes(w);
    }

    private static byte[] adapter() throws IOException {
        GgufWriter w = new GgufWriter().text("general.type", "adapter").text("general.architecture", "llama")
                .text("adapter.type", "lora").float32("adapter.lora.alpha", 16);
        tensor(w, "blk.0.attn_q.weight.lora_a", 2, HIDDEN);
        tensor(w, "blk.0.attn_q.weight.lora_b", HIDDEN, 2);
        return bytes(w);
    }

    private static void tensor(GgufWriter w, String name, long... shape) {
        long n = 1;
        for (long d : shape) {
            n *= d;
        }
        byte[] zeros = new byte[Math.toIntExact(n * Float.BYTES)];
        w.tensor(name, GgmlType.F32, shape, sink -> sink.write(MemorySegment.ofArray(zeros)));
    }

    @Override
    void read(byte[] input, Path scratch) throws IOException {
        Path file = Files.write(scratch.resolve("fuzzed.gguf"), input);
        try (Gguf gguf = Gguf.open(file)) {
            gguf.metadata().toString();
            for (GgufTensor t : gguf.tensors().values()) {
                t.toString();
                gguf.segment(t).toArray(ValueLayout.JAVA_BYTE);
            }
        }
        Path target = scratch.resolve("imported");
        if (Files.exists(target)) {
            try (Stream<Path> files = Files.walk(target)) {
                for (Path p : files.sorted(Comparator.reverseOrder()).toList()) {
                    Files.delete(p);
                }
            }
        }
        Path base = scratch.resolve(DecoderConfig.FILE);
        if (!Files.exists(base)) {
            Files.writeString(base, ModelTargets.config("\"rope_theta\": 10000.0"));
        }
        GgufImport.run(file, target, new GgufImport.Options(null, null, scratch));
    }
}
