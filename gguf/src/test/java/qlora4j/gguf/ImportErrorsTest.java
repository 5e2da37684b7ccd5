package qlora4j.gguf;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.nio.file.Path;
import java.util.List;
import java.util.function.Consumer;
import java.util.stream.Stream;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.Arguments;
import org.junit.jupiter.params.provider.MethodSource;
import qlora4j.gguf.GgufException.Kind;

/** A well-formed file that is no model that can be imported is refused, before anything is written. */
class ImportErrorsTest {
    @TempDir
    private Path folder;

    /** A file in the making: each part can be left out or changed. */
    private static final class Draft {
        private String architecture = "llama";
        private String tokenizer = "gpt2";
        private String pre = "gpt-2";
        private List<String> tokens = List.of("a", "b", "ab", "<s>");
        private List<String> merges = List.of("a b");
        private int[] types = {1, 1, 1, 3};
        private int bos = 3;
        private int experts;
        private int heads = 2;
        private String scaling = "none";
        private GgmlType headType = GgmlType.F32;
        private long queries = 32;
        private String extra;
        private boolean norm = true;

        Path write(Path file) throws IOException {
            String p = architecture + ".";
            GgufWriter w = new GgufWriter().text("general.architecture", architecture).uint32(p + "block_count", 1)
                    .uint32(p + "context_length", 64).uint32(p + "embedding_length", 32)
                    .uint32(p + "feed_forward_length", 32).uint32(p + "attention.head_count", heads)
                    .float32(p + "attention.layer_norm_rms_epsilon", 1e-5).uint32(p + "expert_count", experts)
                    .text(p + "rope.scaling.type", scaling).text("tokenizer.ggml.model", tokenizer)
                    .text("tokenizer.ggml.pre", pre).texts("tokenizer.ggml.tokens", tokens)
                    .texts("tokenizer.ggml.merges", merges).int32s("tokenizer.ggml.token_type", types)
                    .uint32("tokenizer.ggml.bos_token_id", bos);
            tensor(w, "token_embd.weight", GgmlType.F32, 4, 32);
            tensor(w, "output.weight", headType, 4, headType.blockElements() == 1 ? 32 : 256);
            for (String name : List.of("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")) {
                tensor(w, "blk.0." + name + ".weight", GgmlType.F32, name.equals("attn_q") ? queries : 32, 32);
            }
            tensor(w, "blk.0.attn_norm.weight", GgmlType.F32, 32);
            tensor(w, "blk.0.ffn_norm.weight", GgmlType.F32, 32);
            if (norm) {
                tensor(w, "output_norm.weight", GgmlType.F32, 32);
            }
            if (extra != null) {
                tensor(w, extra, GgmlType.F32, 32);
            }
            w.write(file);
            return file;
        }

        private static void tensor(GgufWriter w, String name, GgmlType type, long... shape) {
            long n = 1;
            for (long d : shape) {
                n *= d;
            }
            byte[] bytes = new byte[(int) type.bytes(n)];
            w.tensor(name, type, shape, sink -> sink.write(MemorySegment.ofArray(bytes)));
        }
    }

    static Stream<Arguments> wrong() {
        return Stream.of(bad(Kind.UNSUPPORTED, "'gemma'", d -> d.architecture = "gemma"),
                bad(Kind.UNSUPPORTED, "llama.expert_count is 8", d -> d.experts = 8),
                bad(Kind.UNSUPPORTED, "'yarn'", d -> d.scaling = "yarn"),
                bad(Kind.UNSUPPORTED, "'t5'", d -> d.tokenizer = "t5"),
                bad(Kind.UNSUPPORTED, "'nonsense'", d -> d.pre = "nonsense"),
                bad(Kind.BAD_VALUE, "head_count is 0", d -> d.heads = 0),
                bad(Kind.BAD_VALUE, "'b a'", d -> d.merges = List.of("a b", "b a")),
                bad(Kind.BAD_VALUE, "'ab'", d -> d.merges = List.of("ab")),
                bad(Kind.BAD_VALUE, "tokenizer.ggml.token_type", d -> d.types = new int[]{1, 1}),
                bad(Kind.BAD_VALUE, "token 1 has the type 9", d -> d.types = new int[]{1, 9, 1, 1}),
                bad(Kind.BAD_VALUE, "bos_token_id is 4", d -> d.bos = 4),
                bad(Kind.BAD_VALUE, "4 rows", d -> {
                    d.tokens = List.of("a", "b", "ab", "<s>", "c");
                    d.types = new int[]{1, 1, 1, 3, 1};
                }), bad(Kind.BAD_TENSOR, "no tensor output_norm.weight", d -> d.norm = false),
                bad(Kind.BAD_TENSOR, "blk.0.attn_q.weight", d -> d.queries = 64),
                bad(Kind.BAD_TENSOR, "blk.0.strange.weight", d -> d.extra = "blk.0.strange.weight"),
                bad(Kind.BAD_TENSOR, "output.weight", d -> d.headType = GgmlType.IQ4_XS),
                bad(Kind.UNSUPPORTED, "rope_freqs.weight", d -> d.extra = "rope_freqs.weight"));
    }

    private static Arguments bad(Kind kind, String message, Consumer<Draft> change) {
        return Arguments.of(kind, message, change);
    }

    @ParameterizedTest
    @MethodSource("wrong")
    void isRefused(Kind kind, String message, Consumer<Draft> change) throws IOException {
        Draft draft = new Draft();
        Path good = draft.write(folder.resolve("good.gguf"));
        GgufImport.run(good, folder.resolve("good"), GgufImport.Options.NONE);
        change.accept(draft);
        Path file = draft.write(folder.resolve("bad.gguf"));
        Path target = folder.resolve("target");
        assertThatThrownBy(() -> GgufImport.run(file, target, GgufImport.Options.NONE))
                .isInstanceOf(GgufException.class).hasMessageStartingWith(file + ": ").hasMessageContaining(message)
                .extracting(e -> ((GgufException) e).kind()).isEqualTo(kind);
        assertThat(target.resolve("config.json")).doesNotExist();
        assertThat(target.resolve("model.safetensors")).doesNotExist();
    }
}
