package qlora4j.train.data;

import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A conversation as a chat template takes it.
 *
 * @param messages  each with {@code role} and {@code content}, and whatever else the template knows
 * @param tools     descriptions of functions that the assistant may call, or null
 * @param arguments more variables of the template
 */
public record Chat(List<Map<String, Object>> messages, List<Object> tools, Map<String, Object> arguments) {
    static final String ROLE = "role";
    static final String CONTENT = "content";
    static final String ASSISTANT = "assistant";

    public Chat {
        messages = List.copyOf(messages);
        tools = tools == null ? null : Collections.unmodifiableList(tools);
        arguments = Collections.unmodifiableMap(arguments);
    }

    /** One message of a user and its answer. */
    static Chat of(String question, String answer) {
        return new Chat(List.of(message("user", question), message(ASSISTANT, answer)), null, Map.of());
    }

    static Map<String, Object> message(String role, String content) {
        Map<String, Object> message = new LinkedHashMap<>();
        message.put(ROLE, role);
        message.put(CONTENT, content);
        return message;
    }

    /** The first of the messages. */
    Chat first(int count) {
        return new Chat(messages.subList(0, count), tools, arguments);
    }

    String role(int message) {
        return (String) messages.get(message).get(ROLE);
    }

    /** Where the assistant's last message stands, or -1. */
    int lastAnswer() {
        int k = messages.size() - 1;
        while (k >= 0 && !role(k).equals(ASSISTANT)) {
            k--;
        }
        return k;
    }
}
