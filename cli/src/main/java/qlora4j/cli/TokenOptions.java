package qlora4j.cli;

import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import picocli.CommandLine.Option;
import qlora4j.lora.LoraConfig;
import qlora4j.lora.TrainableTokens;
import qlora4j.model.ModelDirectory;

/** Special tokens that a model gets, and tokens whose rows of the embedding and of the head are trained. */
final class TokenOptions {
    @Option(names = "--add-special-tokens", paramLabel = "TEXT", split = ",", arity = "1..*",
            description = "Special tokens that the tokenizer gets. Their rows of the embedding and of the head begin as the"
                    + " mean of all and are trained; the tokenizer is saved with the adapter. One that is there already"
                    + " keeps its id, and is trained.")
    private List<String> added = List.of();

    @Option(names = "--trainable-token-indices", paramLabel = "ID", split = ",", arity = "1..*",
            description = "Tokens by id whose rows of the embedding and of the head are trained, as PEFT's option.")
    private List<Integer> indices = List.of();

    /** Adds the tokens to the directory's tokenizer, and their rows to an adapter. */
    LoraConfig in(ModelDirectory directory, LoraConfig lora) throws IOException {
        int vocab = directory.config().vocab();
        indices.stream().filter(id -> id < 0 || id >= vocab).findFirst().ifPresent(id -> {
            throw new IllegalArgumentException("--trainable-token-indices " + id + ": the model has the tokens 0 to "
                    + (vocab - 1) + "; new ones are added by --add-special-tokens");
        });
        List<Integer> ids = new ArrayList<>(indices);
        if (!added.isEmpty()) {
            ids.addAll(directory.addTokens(added));
        }
        return ids.isEmpty() ? lora
                : lora.withTokens(TrainableTokens.of(ids, directory.config().tieWordEmbeddings()));
    }

    /** Whether there are any. */
    boolean given() {
        return !added.isEmpty() || !indices.isEmpty();
    }
}
