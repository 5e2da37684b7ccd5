package qlora4j.train.data;

import static qlora4j.train.data.Columns.CHAT_TEMPLATE_KWARGS;
import static qlora4j.train.data.Columns.COMPLETION;
import static qlora4j.train.data.Columns.CONVERSATIONS;
import static qlora4j.train.data.Columns.INPUT;
import static qlora4j.train.data.Columns.INSTRUCTION;
import static qlora4j.train.data.Columns.MESSAGES;
import static qlora4j.train.data.Columns.OUTPUT;
import static qlora4j.train.data.Columns.PROMPT;
import static qlora4j.train.data.Columns.SYSTEM;
import static qlora4j.train.data.Columns.TEXT;
import static qlora4j.train.data.Columns.TOOLS;

import java.util.ArrayList;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Tells a row's form by its columns. Where they would allow several, the first of these counts: conversation, Alpaca,
 * prompt and completion, text; a text column that was asked for counts before all.
 */
final class RowForms {
    private RowForms() {
    }

    static Row row(RawRow raw, Columns columns) {
        Fields fields = new Fields(raw.where(), Collections.unmodifiableMap(columns.apply(raw)));
        if (columns.textOnly()) {
            if (!fields.has(columns.textField())) {
                throw new DataException(raw.where() + ": there is no column \"" + columns.textField()
                        + "\", which --dataset-text-field names; found " + fields.map().keySet());
            }
            return new Row.Text(raw.where(), fields.filled(columns.textField()), fields.map());
        }
        for (String column : List.of(MESSAGES, CONVERSATIONS)) {
            if (fields.map().get(column) != null) {
                return conversation(fields, Messages.read(fields, column), -1);
            }
        }
        boolean alpaca = fields.has(INSTRUCTION) && fields.has(OUTPUT);
        boolean promptCompletion = fields.has(PROMPT) && fields.has(COMPLETION);
        if (alpaca && promptCompletion) {
            throw new DataException(raw.where()
                    + ": holds instruction and output, and prompt and completion too; keep one pair");
        }
        if (alpaca) {
            return new Row.Alpaca(raw.where(), fields.filled(INSTRUCTION),
                    fields.map().get(INPUT) == null ? "" : fields.text(INPUT), fields.filled(OUTPUT), fields.map());
        }
        if (promptCompletion) {
            return fields.map().get(PROMPT) instanceof List<?> || fields.map().get(COMPLETION) instanceof List<?>
                    ? conversation(fields)
                    : new Row.PromptCompletion(raw.where(), fields.text(PROMPT), fields.filled(COMPLETION),
                            fields.map());
        }
        if (fields.map().get(TEXT) != null) {
            return new Row.Text(raw.where(), fields.filled(TEXT), fields.map());
        }
        throw unknown(fields);
    }

    private static DataException unknown(Fields fields) {
        boolean instruction = fields.has(INSTRUCTION);
        boolean output = fields.has(OUTPUT);
        boolean prompt = fields.has(PROMPT);
        boolean completion = fields.has(COMPLETION);
        String found = "; found " + fields.map().keySet();
        if ((instruction || output) && !prompt && !completion) {
            return fields.error(instruction ? OUTPUT : INSTRUCTION, "is missing" + found);
        }
        if ((prompt || completion) && !instruction && !output) {
            return fields.error(prompt ? COMPLETION : PROMPT, "is missing" + found);
        }
        return new DataException(fields.where() + ": a row needs \"instruction\" and \"output\", or \"prompt\" and"
                + " \"completion\", or \"messages\", \"conversations\" or \"text\"" + found
                + "; --column-mapping says which column is which");
    }

    /** A prompt and a completion that are messages; a completion that is a string is the assistant's. */
    private static Row conversation(Fields fields) {
        List<Map<String, Object>> messages = new ArrayList<>(Messages.read(fields, PROMPT));
        int given = messages.size();
        if (fields.map().get(COMPLETION) instanceof String) {
            messages.add(Chat.message(Chat.ASSISTANT, fields.filled(COMPLETION)));
        } else {
            messages.addAll(Messages.read(fields, COMPLETION));
        }
        return conversation(fields, messages, given);
    }

    private static Row conversation(Fields fields, List<Map<String, Object>> messages, int given) {
        List<Map<String, Object>> all = new ArrayList<>(messages);
        int prompt = given;
        if (fields.map().get(SYSTEM) instanceof String system && !system.isBlank()
                && !SYSTEM.equals(messages.getFirst().get(Chat.ROLE))) {
            all.addFirst(Chat.message(SYSTEM, fields.text(SYSTEM)));
            prompt += given < 0 ? 0 : 1;
        }
        Chat chat = new Chat(all, Messages.tools(fields, TOOLS), arguments(fields));
        return new Row.Conversation(fields.where(), chat, prompt, fields.map());
    }

    private static Map<String, Object> arguments(Fields fields) {
        return switch (fields.json(CHAT_TEMPLATE_KWARGS)) {
            case null -> Map.of();
            case Map<?, ?> map -> {
                Map<String, Object> arguments = new LinkedHashMap<>();
                map.forEach((name, value) -> arguments.put((String) name, value));
                yield arguments;
            }
            case Object other -> throw fields.error(CHAT_TEMPLATE_KWARGS, "must be an object, this is "
                    + Fields.kind(other));
        };
    }

    /** A form's name, for people. */
    static String name(Row row) {
        return switch (row) {
            case Row.Alpaca _ -> "instruction, input and output";
            case Row.PromptCompletion _ -> "prompt and completion";
            case Row.Conversation c -> c.given() < 0 ? "messages" : "prompt and completion of messages";
            case Row.Text _ -> "text";
        };
    }
}
