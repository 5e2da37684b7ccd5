package qlora4j.train;

import qlora4j.model.Tokenizer;
import qlora4j.template.Rendered;
import qlora4j.train.data.Chat;
import qlora4j.train.data.ChatRenderer;
import qlora4j.train.data.TextEncoder;

/** A model's tokenizer as the data module takes it. */
record ModelText(Tokenizer tokenizer) implements TextEncoder {
    @Override
    public int[] encode(String text, boolean addSpecialTokens) {
        return tokenizer.encode(text, addSpecialTokens);
    }

    @Override
    public Offsets encodeWithOffsets(String text) {
        Tokenizer.WithOffsets found = tokenizer.encodeWithOffsets(text);
        return new Offsets(found.ids(), found.starts(), found.ends());
    }

    /** The model's chat template; {@code eosText} is the EOS that training learns. */
    record Chats(Tokenizer tokenizer, String eosText) implements ChatRenderer {
        @Override
        public Rendered render(Chat chat, boolean addGenerationPrompt) {
            return tokenizer.renderChat(chat.messages(), chat.tools(), chat.arguments(), addGenerationPrompt);
        }

        @Override
        public boolean marksGeneration() {
            return tokenizer.marksGeneration();
        }
    }
}
