package qlora4j.train.data;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads lists of messages: {@code {role, content}} as OpenAI, transformers and TRL have them, or {@code {from, value}}
 * as ShareGPT has. Fields that are null are left out (tables fill with null what a message lacks), except the content.
 */
final class Messages {
    private static final String FROM = "from";
    private static final String VALUE = "value";
    private static final String TOOL_CALLS = "tool_calls";
    private static final String FUNCTION_CALL = "function_call";
    private static final Map<String, String> SHARE_GPT_ROLES = Map.ofEntries(Map.entry("human", "user"),
            Map.entry("user", "user"), Map.entry("gpt", Chat.ASSISTANT), Map.entry("chatgpt", Chat.ASSISTANT),
            Map.entry("model", Chat.ASSISTANT), Map.entry("bing", Chat.ASSISTANT), Map.entry("bard", Chat.ASSISTANT),
            Map.entry(Chat.ASSISTANT, Chat.ASSISTANT), Map.entry("system", "system"), Map.entry("tool", "tool"),
            Map.entry("observation", "tool"), Map.entry("function_response", "tool"),
            Map.entry(FUNCTION_CALL, Chat.ASSISTANT));

    private Messages() {
    }

    /** The messages of a column; at least one. */
    static List<Map<String, Object>> read(Fields fields, String column) {
        Object value = fields.json(column);
        if (!(value instanceof List<?> list)) {
            throw fields.error(column, "must be an array of messages, this is " + Fields.kind(value));
        }
        if (list.isEmpty()) {
            throw fields.error(column, "holds no messages; remove the row");
        }
        List<Map<String, Object>> messages = new ArrayList<>();
        for (int i = 0; i < list.size(); i++) {
            String where = fields.where() + ", message " + (i + 1) + " of \"" + column + "\"";
            if (!(list.get(i) instanceof Map<?, ?> given)) {
                throw new DataException(where + ": must be an object, this is " + Fields.kind(list.get(i)));
            }
            messages.add(message(where, withoutNulls(given)));
        }
        return messages;
    }

    private static Map<String, Object> message(String where, Map<String, Object> given) {
        Map<String, Object> message = new LinkedHashMap<>(given);
        if (!given.containsKey(Chat.ROLE)) {
            if (!given.containsKey(FROM)) {
                throw new DataException(where + ": has no \"role\" (or \"from\"); found " + given.keySet());
            }
            fromShareGpt(where, given, message);
        }
        if (Fields.text(where, Chat.ROLE, message.get(Chat.ROLE)).isBlank()) {
            throw new DataException(where + ": \"role\" is empty");
        }
        boolean calls = message.get(TOOL_CALLS) instanceof List<?> list && !list.isEmpty();
        Object content = message.get(Chat.CONTENT);
        if (content == null && calls) {
            message.put(Chat.CONTENT, null);
        } else if (content instanceof List<?> parts) {
            parts.forEach(part -> textPart(where, part));
        } else {
            Fields.text(where, Chat.CONTENT, content);
        }
        return message;
    }

    private static void fromShareGpt(String where, Map<String, Object> given, Map<String, Object> message) {
        String from = Fields.text(where, FROM, given.get(FROM));
        String role = SHARE_GPT_ROLES.get(from);
        if (role == null) {
            throw new DataException(where + ": \"from\" is \"" + from + "\"; known are "
                    + SHARE_GPT_ROLES.keySet().stream().sorted().toList());
        }
        String value = Fields.text(where, VALUE, given.get(VALUE));
        message.remove(FROM);
        message.remove(VALUE);
        message.put(Chat.ROLE, role);
        if (!from.equals(FUNCTION_CALL)) {
            message.put(Chat.CONTENT, value);
            return;
        }
        Object call = JsonRows.value(where, VALUE, value);
        message.put(Chat.CONTENT, "");
        message.put(TOOL_CALLS, (call instanceof List<?> several ? several : List.of(call)).stream()
                .map(one -> Map.of("type", "function", "function", one)).toList());
    }

    private static void textPart(String where, Object part) {
        if (!(part instanceof Map<?, ?> map) || !"text".equals(map.get("type"))) {
            throw new DataException(where + ": \"content\" holds a part that is no text ("
                    + (part instanceof Map<?, ?> map ? map.get("type") : Fields.kind(part))
                    + "); only texts can be trained on");
        }
    }

    /** A copy without null in it, at any depth. */
    private static Map<String, Object> withoutNulls(Map<?, ?> given) {
        Map<String, Object> copy = new LinkedHashMap<>();
        given.forEach((name, value) -> {
            if (value != null) {
                copy.put((String) name, withoutNulls(value));
            }
        });
        return copy;
    }

    private static Object withoutNulls(Object value) {
        return switch (value) {
            case Map<?, ?> map -> withoutNulls(map);
            case List<?> list -> list.stream().filter(item -> item != null).map(Messages::withoutNulls).toList();
            default -> value;
        };
    }

    /** The descriptions of tools in a column, some of which may stand there as JSON text; null where there are none. */
    static List<Object> tools(Fields fields, String column) {
        Object value = fields.json(column);
        if (value == null || value instanceof List<?> none && none.isEmpty()) {
            return null;
        }
        if (!(value instanceof List<?> list)) {
            throw fields.error(column, "must be an array of tools, this is " + Fields.kind(value));
        }
        List<Object> tools = new ArrayList<>();
        for (Object item : list) {
            Object tool = item instanceof String json ? JsonRows.value(fields.where(), column, json) : item;
            if (!(tool instanceof Map<?, ?> map)) {
                throw fields.error(column, "holds a tool that is no object but " + Fields.kind(tool));
            }
            tools.add(withoutNulls(map));
        }
        return tools;
    }
}
