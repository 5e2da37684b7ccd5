package qlora4j.verify.fuzz;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.OptionalInt;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.model.GenerationConfig;
import qlora4j.model.Message;
import qlora4j.model.ModelDirectory;
import qlora4j.model.ModelTensors;
import qlora4j.model.RopeConfig;
import qlora4j.model.StreamingDecoder;
import qlora4j.model.TokenBatch;
import qlora4j.model.Tokenizer;
import qlora4j.model.TrainableWeights;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;
import qlora4j.train.Checkpoints;
import qlora4j.train.TrainSettings;
import qlora4j.train.Trainer;

/** A model directory's JSON files, its tokenizer, and a trainer's checkpoint. */
final class ModelTargets {
    private static final DecoderConfig TINY = new DecoderConfig(DecoderConfig.Architecture.LLAMA, 8, 4, 4, 1, 2, 1, 2,
            1e-5, 16, true, 0, 0, RopeConfig.unscaled(10000), false, false, false, false, DType.F32,
            DecoderConfig.SILU, OptionalInt.empty(), List.of(), OptionalInt.empty(), null);
    private static final String CONFIG = """
            {"model_type": "llama", "dtype": "float32", "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4,
             "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 2,
             "max_position_embeddings": 16, "rms_norm_eps": 1e-05, "hidden_act": "silu",
             "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": [2, 5], "pad_token_id": 3, %s}""";
    /** A byte-level tokenizer of few tokens. */
    private static final String TOKENIZER = """
            {"version": "1.0", "truncation": null, "padding": null, "added_tokens": [{"id": 6, "content": "</s>",
              "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
             "normalizer": null,
             "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
             "post_processor": null,
             "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
             "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
              "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
              "vocab": {"a": 0, "b": 1, "\u0120": 2, "ab": 3, "\u0120a": 4, "c": 5},
              "merges": [["a", "b"], ["\u0120", "a"]]}}""";
    private static final String FALLBACK = """
            {"version": "1.0", "added_tokens": [{"id": 0, "content": "<unk>", "special": true, "single_word": false,
              "lstrip": false, "rstrip": false, "normalized": false}],
             "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"},
              {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
             "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "\u2581"},
              "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ",
              "start": 1, "stop": 0}]},
             "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
              "vocab": {"<unk>": 0, "<0x0A>": 1, "a": 2, "\u2581": 3, "b": 4, "ab": 5}, "merges": ["a b"]}}""";
    private static final String TOKENIZER_CONFIG = """
            {"eos_token": {"content": "</s>", "lstrip": false}, "bos_token": null, "model_max_length": 16,
             "chat_template": "{% for m in messages %}{{ m.role }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"}""";

    private ModelTargets() {
    }

    /** A {@code config.json} with further fields. */
    static String config(String more) {
        return CONFIG.formatted(more);
    }

    static List<FuzzTarget> all() {
        return List.of(new ConfigTarget(), new TokenizerTarget(), new CheckpointTarget());
    }

    /** {@code config.json} and {@code generation_config.json}, beside the tensors that the first one's seed describes. */
    private static final class ConfigTarget extends FuzzTarget {
        ConfigTarget() {
            super("config");
        }

        @Override
        List<byte[]> seeds() {
            byte[] generation = utf8("""
                    {"eos_token_id": 2, "do_sample": true, "temperature": 0.7, "top_k": 5, "top_p": 0.9,
                     "repetition_penalty": 1.1, "max_new_tokens": 8, "num_beams": 1}""");
            return List.of(
                    join(utf8(config(
                            "\"rope_theta\": 10000.0, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0,"
                                    + " \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0,"
                                    + " \"original_max_position_embeddings\": 8}")),
                            generation),
                    join(utf8(config("\"rope_parameters\": {\"rope_theta\": 10000.0, \"rope_type\": \"default\"},"
                            + " \"quantization_config\": {\"quant_method\": \"bitsandbytes\", \"load_in_4bit\": true,"
                            + " \"bnb_4bit_quant_type\": \"nf4\", \"bnb_4bit_use_double_quant\": true,"
                            + " \"bnb_4bit_compute_dtype\": \"bfloat16\", \"llm_int8_skip_modules\": [\"lm_head\"]}")),
                            new byte[0]));
        }

        @Override
        void read(byte[] input, Path scratch) throws IOException {
            Path weights = scratch.resolve("model.safetensors");
            if (!Files.exists(weights)) {
                SafetensorsWriter writer = new SafetensorsWriter();
                ModelTensors.expected(TINY).forEach((name, shape) -> writer.add(name, Tensor.zeros(DType.F32, shape)));
                writer.write(weights);
                Files.writeString(scratch.resolve(Tokenizer.FILE), TOKENIZER);
            }
            byte[][] parts = split(input, 2);
            put(scratch.resolve(DecoderConfig.FILE), parts[0]);
            put(scratch.resolve(GenerationConfig.FILE), parts[1]);
            try (ModelDirectory model = ModelDirectory.open(scratch)) {
                model.generation().sampling(1);
                model.config().toJson(model.configJson());
                model.weights();
                model.config().inverseFrequencies();
            }
        }
    }

    /** {@code tokenizer.json}, {@code tokenizer_config.json}, {@code special_tokens_map.json}. */
    private static final class TokenizerTarget extends FuzzTarget {
        TokenizerTarget() {
            super("tokenizer");
        }

        @Override
        List<byte[]> seeds() {
            return List.of(join(utf8(TOKENIZER), utf8(TOKENIZER_CONFIG), utf8("{\"pad_token\": \"</s>\"}")),
                    join(utf8(FALLBACK), utf8("{\"unk_token\": \"<unk>\"}"), new byte[0]));
        }

        @Override
        int tries() {
            return 500;
        }

        @Override
        boolean isNative() {
            return true;
        }

        @Override
        void read(byte[] input, Path scratch) throws IOException {
            byte[][] parts = split(input, 3);
            put(scratch.resolve(Tokenizer.FILE), parts[0]);
            put(scratch.resolve("tokenizer_config.json"), parts[1]);
            put(scratch.resolve("special_tokens_map.json"), parts[2]);
            try (Tokenizer tokenizer = Tokenizer.open(scratch)) {
                int[] ids = tokenizer.encode("ab a\nb \u00e9</s>c", true);
                tokenizer.decode(ids, true);
                StreamingDecoder streaming = tokenizer.streamingDecoder(false);
                for (int id : ids) {
                    streaming.accept(id);
                }
                streaming.finish();
                if (tokenizer.chatTemplates().contains("default")) {
                    tokenizer.renderChat(List.of(new Message("user", "a b")), true);
                }
            }
        }
    }

    /** A trainer's checkpoint: {@code trainer_state.json} and the tensors. */
    private static final class CheckpointTarget extends FuzzTarget {
        private static final Map<String, String> IDENTITY = Map.of("seed", "42", "model", "tiny");
        private static final String JSON = "trainer_state.json";
        private static final String TENSORS = "trainer_state.safetensors";
        private Trainer trainer;

        CheckpointTarget() {
            super("checkpoint");
        }

        /** One trainer for all inputs: it is large beside them. It lives as long as the process. */
        private Trainer trainer(Path scratch) {
            if (trainer == null) {
                Backend scalar = Backends.open(Backend.SCALAR);
                TrainableWeights weights = new TrainableWeights(TINY, scalar);
                Decoder decoder = new Decoder(TINY, scalar, DType.F32, weights);
                trainer = new Trainer(decoder, weights.store(), Adapters.NO_SLOT, 0, TrainSettings.defaults(), 10,
                        TokenBatch.of(new int[][]{{1, 2, 3}}).withLabels(new int[]{2, 3, TokenBatch.IGNORED}), scratch);
            }
            return trainer;
        }

        @Override
        List<byte[]> seeds() throws IOException {
            Path output = Files.createTempDirectory("checkpoint");
            Path saved = new Checkpoints(output, IDENTITY).save(trainer(output), _ -> {
            }, 0);
            byte[] seed = join(Files.readAllBytes(saved.resolve(JSON)), Files.readAllBytes(saved.resolve(TENSORS)));
            for (Path p : List.of(saved.resolve(JSON), saved.resolve(TENSORS), saved, output)) {
                Files.delete(p);
            }
            return List.of(seed);
        }

        @Override
        void read(byte[] input, Path scratch) throws IOException {
            byte[][] parts = split(input, 2);
            put(scratch.resolve(JSON), parts[0]);
            put(scratch.resolve(TENSORS), parts[1]);
            new Checkpoints(scratch, IDENTITY).restore(scratch, trainer(scratch));
        }
    }
}
