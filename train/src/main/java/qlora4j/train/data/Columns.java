package qlora4j.train.data;

import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.Map;
import java.util.Objects;
import java.util.Set;

/**
 * Which columns of a file are read as what.
 *
 * @param mapping   the file's column by the name that it is read under, where they differ
 * @param textField the column that holds a whole text, or null: {@value #TEXT}, where the row has nothing else
 */
public record Columns(Map<String, String> mapping, String textField) {
    static final String INSTRUCTION = "instruction";
    static final String INPUT = "input";
    static final String OUTPUT = "output";
    static final String PROMPT = "prompt";
    static final String COMPLETION = "completion";
    static final String MESSAGES = "messages";
    static final String CONVERSATIONS = "conversations";
    static final String TEXT = "text";
    static final String SYSTEM = "system";
    static final String TOOLS = "tools";
    static final String CHAT_TEMPLATE_KWARGS = "chat_template_kwargs";

    /** The names that mean something in a row; a mapping is to one of them. */
    static final Set<String> KNOWN = Set.of(INSTRUCTION, INPUT, OUTPUT, PROMPT, COMPLETION, MESSAGES, CONVERSATIONS,
            TEXT, SYSTEM, TOOLS, CHAT_TEMPLATE_KWARGS);

    /** Columns under their own names. */
    public static final Columns AS_NAMED = new Columns(Map.of(), null);

    public Columns {
        mapping = Map.copyOf(mapping);
        for (String name : mapping.keySet()) {
            if (!KNOWN.contains(name)) {
                throw new DataException("--column-mapping " + name + "=" + mapping.get(name) + ": \"" + name
                        + "\" is no name that rows have; there are " + KNOWN.stream().sorted().toList()
                        + " (NAME=COLUMN: what the column is read as comes first)");
            }
        }
    }

    /** A row's fields under the names that they are read as. */
    Map<String, Object> apply(RawRow row) {
        if (mapping.isEmpty()) {
            return row.fields();
        }
        Set<String> taken = new LinkedHashSet<>(mapping.values());
        for (String column : taken) {
            if (!row.fields().containsKey(column)) {
                throw new DataException(row.where() + ": there is no column \"" + column
                        + "\", which --column-mapping names; found " + row.fields().keySet());
            }
        }
        Map<String, Object> renamed = new LinkedHashMap<>();
        row.fields().forEach((column, value) -> {
            if (!taken.contains(column) && !mapping.containsKey(column)) {
                renamed.put(column, value);
            }
        });
        mapping.forEach((name, column) -> renamed.put(name, row.fields().get(column)));
        return renamed;
    }

    /** Whether the text column was asked for, so that nothing else of a row is looked at. */
    boolean textOnly() {
        return Objects.nonNull(textField);
    }
}
