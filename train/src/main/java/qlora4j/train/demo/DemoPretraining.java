package qlora4j.train.demo;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Iterator;
import java.util.List;
import java.util.TreeSet;
import java.util.function.Consumer;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.lora.Linear.Adapters;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.model.TokenBatch;
import qlora4j.model.Tokenizer;
import qlora4j.model.TrainableWeights;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.Residency;
import qlora4j.optim.Schedule;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.train.TrainSettings;
import qlora4j.train.Trainer;
import qlora4j.train.data.Batch;
import qlora4j.train.data.Batches;
import qlora4j.train.data.GlobalBatch;
import qlora4j.train.data.TokenizedRow;

/**
 * Pre-trains the bundled demo model from nothing: tokenizer from the generator's texts, random weights, all parameters
 * trained by the project's own trainer, and a Hugging Face model directory written in bfloat16.
 *
 * <p>A small model finds the copying of words late and by chance; the first sixth of the tokens are therefore nearly all
 * copies of word lists, over a vocabulary that grows from {@value #FIRST_WORDS} words to all.
 */
public final class DemoPretraining {
    /** What stands before the answer in every document. */
    private static final String RESPONSE = "### Response:\n";
    private static final int VOCABULARY = 1088;
    private static final int TOKENIZER_TEXTS = 20_000;
    private static final int DOCUMENTS_PER_STEP = 28;
    private static final double COPY_SHARE_FIRST = 0.95;
    private static final double COPY_SHARE_LATER = 0.1;
    private static final double FIRST_PHASE = 0.17;
    private static final int FIRST_WORDS = 30;
    private static final double WORDS_HOLD = 1e5;
    private static final double WORDS_GROW = 1e5;
    private static final int COPY_MIN = 5;
    private static final int COPY_MAX = 16;
    private static final double EMBEDDING_DEVIATION = 0.07;
    private static final double EMBEDDING_MEAN = 0.03;
    private static final double LEARNING_RATE = 1.2e-3;
    /** The purpose number of the curriculum's random sequence. */
    private static final int CURRICULUM = 0x63757272;
    private static final Pattern WORD = Pattern.compile("(?<= )[A-Za-z0-9]+");
    private static final String CONFIG = """
            {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 192,
             "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 2,
             "head_dim": 32, "max_position_embeddings": 512, "rms_norm_eps": 1e-05, "tie_word_embeddings": true,
             "attention_bias": false, "mlp_bias": false, "rope_parameters": {"rope_type": "default",
             "rope_theta": 10000.0}, "initializer_range": 0.02, "use_cache": true, "dtype": "bfloat16"}""";

    private final Backend backend;
    private final Path output;
    private final long tokens;
    private final long seed;

    /**
     * @param output the model directory to write
     * @param tokens how many tokens to train on
     */
    public DemoPretraining(Backend backend, Path output, long tokens, long seed) {
        this.backend = backend;
        this.output = output;
        this.tokens = tokens;
        this.seed = seed;
    }

    /** Runs everything; {@code log} sees a line now and then. */
    public void run(Consumer<String> log) throws IOException {
        DemoTokenizer trained = DemoTokenizer.train(DemoCorpus.documents(seed).limit(TOKENIZER_TEXTS), VOCABULARY);
        trained.write(output);
        writeConfig(trained);
        DecoderConfig config = DecoderConfig.read(output);
        List<TokenizedRow> documents;
        try (Tokenizer tokenizer = Tokenizer.open(output)) {
            documents = documents(tokenizer, tokenizer.eosId().getAsInt());
        }
        try (TrainableWeights weights = new TrainableWeights(config, backend)) {
            weights.initialize(config, EMBEDDING_DEVIATION, EMBEDDING_MEAN, seed);
            Decoder decoder = new Decoder(config, backend, DType.F32, weights);
            train(decoder, weights, documents, log);
            weights.save(output, DType.BF16);
        }
    }

    private void writeConfig(DemoTokenizer tokenizer) throws IOException {
        ObjectMapper mapper = new ObjectMapper();
        ObjectNode config = (ObjectNode) mapper.readTree(CONFIG);
        int eos = tokenizer.tokens().indexOf(DemoTokenizer.EOS);
        int pad = tokenizer.tokens().indexOf(DemoTokenizer.PAD);
        config.put("vocab_size", VOCABULARY).put("eos_token_id", eos).put("pad_token_id", pad).putNull("bos_token_id");
        write("config.json", config, mapper);
        write("generation_config.json", mapper.createObjectNode().put("eos_token_id", eos).put("pad_token_id", pad),
                mapper);
    }

    private void write(String name, ObjectNode json, ObjectMapper mapper) throws IOException {
        Files.writeString(output.resolve(name),
                mapper.writerWithDefaultPrettyPrinter().writeValueAsString(json) + "\n");
    }

    /** The documents in order: pairs of the corpus with copies of word lists among them, answers trained. */
    List<TokenizedRow> documents(Tokenizer tokenizer, int eos) {
        List<String> words = words();
        Philox.Sequence rng = new Philox.Sequence(seed, CURRICULUM, 0);
        Iterator<String> corpus = DemoCorpus.documents(seed).iterator();
        List<TokenizedRow> rows = new ArrayList<>();
        long seen = 0;
        while (seen < tokens) {
            double share = seen < FIRST_PHASE * tokens ? COPY_SHARE_FIRST : COPY_SHARE_LATER;
            String text = rng.nextDouble() < share ? copy(words, known(words, seen), rng) : corpus.next();
            TokenizedRow row = row(tokenizer, eos, text);
            rows.add(row);
            seen += row.length();
        }
        return rows;
    }

    private static int known(List<String> words, long seen) {
        double grown = FIRST_WORDS + Math.max(0, seen - WORDS_HOLD) / WORDS_GROW * (words.size() - FIRST_WORDS);
        return (int) Math.min(words.size(), grown);
    }

    private static String copy(List<String> words, int known, Philox.Sequence rng) {
        while (true) {
            int n = COPY_MIN + rng.nextInt(COPY_MAX - COPY_MIN + 1);
            List<String> pool = new ArrayList<>(words.subList(0, known));
            List<String> list = new ArrayList<>();
            for (int i = 0; i < n; i++) {
                list.add(pool.remove(rng.nextInt(pool.size())));
            }
            String joined = String.join(" ", list);
            DemoCorpus.Pair pair = new DemoCorpus.Pair("Copy the words " + joined + ".",
                    "A copy of the words: " + joined + ".");
            if (!DemoCorpus.isHeldOut(pair.response())) {
                return DemoCorpus.text(pair);
            }
        }
    }

    private List<String> words() {
        TreeSet<String> words = new TreeSet<>();
        DemoCorpus.pretraining(seed).limit(TOKENIZER_TEXTS).forEach(p -> {
            Matcher m = WORD.matcher(p.instruction() + " " + p.response());
            while (m.find()) {
                words.add(m.group());
            }
        });
        List<String> sorted = new ArrayList<>(words);
        List<String> shuffled = new ArrayList<>();
        for (int i : new Philox.Sequence(seed, CURRICULUM, 1).permutation(sorted.size())) {
            shuffled.add(sorted.get(i));
        }
        return shuffled;
    }

    private static TokenizedRow row(Tokenizer tokenizer, int eos, String text) {
        int answer = text.indexOf(RESPONSE) + RESPONSE.length();
        int[] prompt = tokenizer.encode(text.substring(0, answer), false);
        int[] completion = tokenizer.encode(text.substring(answer), false);
        int[] ids = Arrays.copyOf(prompt, prompt.length + completion.length + 1);
        System.arraycopy(completion, 0, ids, prompt.length, completion.length);
        ids[ids.length - 1] = eos;
        return new TokenizedRow(ids, prompt.length, 0);
    }

    private void train(Decoder decoder, TrainableWeights weights, List<TokenizedRow> documents, Consumer<String> log) {
        List<Batch> steps = Batches.inOrder(documents, DOCUMENTS_PER_STEP);
        int most = steps.stream().mapToInt(b -> b.tokens().length).max().orElseThrow();
        AdamHyper adam = new AdamHyper(AdamHyper.Formula.TORCH, 0.9, 0.99, 1e-8, 0.01, 1);
        TrainSettings settings = new TrainSettings(steps.size(), 1, DOCUMENTS_PER_STEP, 1, 256, LEARNING_RATE,
                Schedule.named("cosine"), 0.05, 1, adam, Residency.ALL, false, 1, 0, 0, 0, seed);
        TokenBatch largest = largest(most);
        try (Trainer trainer = new Trainer(decoder, weights.store(), Adapters.NO_SLOT, 0, settings, steps.size(),
                largest, output)) {
            double sum = 0;
            long seen = 0;
            long start = System.nanoTime();
            for (Batch b : steps) {
                Trainer.StepResult r = trainer.step(new GlobalBatch(trainer.step(), 0, List.of(), List.of(b)));
                sum += r.loss();
                seen += r.tokens();
                if (r.step() % 100 == 0 || r.step() == steps.size()) {
                    int n = (r.step() - 1) % 100 + 1;
                    log.accept(
                            String.format("step %d of %d, loss %.4f, gradient norm %.2f, %.2f M tokens, %.0f tokens/s",
                                    r.step(), steps.size(), sum / n, r.gradNorm(), seen / 1e6,
                                    seen / ((System.nanoTime() - start) / 1e9)));
                    sum = 0;
                }
            }
        }
    }

    /** One batch of as many tokens and sequences as any step has. */
    private static TokenBatch largest(int tokens) {
        int[][] sequences = new int[DOCUMENTS_PER_STEP][Math.ceilDiv(tokens, DOCUMENTS_PER_STEP)];
        TokenBatch b = TokenBatch.of(sequences);
        return b.withLabels(new int[b.rows()]);
    }
}
