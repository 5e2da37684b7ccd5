package qlora4j.verify;

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.IntNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import com.fasterxml.jackson.databind.node.TextNode;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.Set;

/** Changes of recorded texts and ids: of tokenizers, chat templates and a real model. */
final class TextPerturbations {
    private static final String TEXT = "text";
    private static final String ERROR = "error";
    private static final String IDS = "ids";

    private TextPerturbations() {
    }

    /** Changes one file's JSON. */
    private interface Edit {
        void apply(JsonNode root, String folder, Set<String> checks);
    }

    private static void edit(Path bundle, Set<String> checks, Edit tokenizers, Edit templates, Edit real)
            throws IOException {
        for (Path folder : ModelPerturbations.folders(bundle)) {
            if (TemplateChecks.describes(folder)) {
                edit(folder.resolve(TemplateChecks.CASES), folder, checks, templates);
            } else if (TokenizerChecks.describes(folder)) {
                edit(folder.resolve(TokenizerChecks.EXPECTED), folder, checks, tokenizers);
            } else if (RealModelChecks.describes(folder)) {
                edit(folder.resolve(TokenizerChecks.EXPECTED), folder, checks, real);
            }
        }
    }

    private static void edit(Path file, Path folder, Set<String> checks, Edit edit) throws IOException {
        JsonNode root = JsonRecord.read(file);
        edit.apply(root, folder.getFileName() + ".", checks);
        Files.write(file, JsonRecord.MAPPER.writeValueAsBytes(root));
    }

    /** Another last character; one more where there is none. */
    private static JsonNode character(JsonNode text) {
        String t = text.textValue();
        String head = t.isEmpty() ? t : t.substring(0, t.offsetByCodePoints(t.length(), -1));
        return TextNode.valueOf(head + (t.endsWith("#") ? "+" : "#"));
    }

    /** Another last id; an empty list gets one. */
    private static void id(JsonNode list) {
        ArrayNode ids = (ArrayNode) list;
        if (ids.isEmpty()) {
            ids.add(0);
        } else {
            ids.set(ids.size() - 1, IntNode.valueOf(ids.get(ids.size() - 1).intValue() ^ 1));
        }
    }

    private static void each(JsonNode root, String field, Set<String> checks, String folder, ChatEdit edit) {
        for (Map.Entry<String, JsonNode> e : root.get("expected").properties()) {
            for (JsonNode c : e.getValue().get("chat")) {
                if (c.has(field)) {
                    edit.apply((ObjectNode) c);
                    checks.add(folder + e.getKey() + ".chat." + c.get("template").textValue());
                }
            }
        }
    }

    /** Changes one conversation. */
    private interface ChatEdit {
        void apply(ObjectNode c);
    }

    private static void templates(JsonNode root, String field, boolean raisedOnly, String folder,
            Set<String> checks) {
        for (JsonNode c : root.get("cases")) {
            boolean counts = !raisedOnly || c.path("error_type").asText().equals(TemplateChecks.RAISED);
            if (c.has(field) && counts) {
                ((ObjectNode) c).set(field, character(c.get(field)));
                checks.add(folder + c.get("template").textValue());
            }
        }
    }

    static void characters(Path bundle, Set<String> checks) throws IOException {
        edit(bundle, checks, (root, folder, names) -> {
            each(root, TEXT, names, folder, c -> c.set(TEXT, character(c.get(TEXT))));
            for (Map.Entry<String, JsonNode> e : root.get("expected").properties()) {
                for (JsonNode c : e.getValue().get("decode")) {
                    ((ArrayNode) c).set(1, character(c.get(1)));
                    ((ArrayNode) c).set(2, character(c.get(2)));
                }
                names.add(folder + e.getKey() + ".decode");
                names.add(folder + e.getKey() + ".decode without special tokens");
            }
        }, (root, folder, names) -> templates(root, TEXT, false, folder, names), (root, folder, names) -> {
            root.get("chat").forEach(c -> ((ObjectNode) c).set("prompt", character(c.get("prompt"))));
            names.add(folder + "chat");
            for (JsonNode w : root.get(RealModelChecks.WEIGHTS)) {
                ((ObjectNode) w).set("packed_sha256", character(w.get("packed_sha256")));
                ((ObjectNode) w).set("nested_absmax_sha256", character(w.get("nested_absmax_sha256")));
            }
            names.add(folder + "nf4.packed");
            names.add(folder + "nf4.nested_absmax");
        });
    }

    static void ids(Path bundle, Set<String> checks) throws IOException {
        edit(bundle, checks, (root, folder, names) -> {
            each(root, IDS, names, folder, c -> id(c.get(IDS)));
            for (Map.Entry<String, JsonNode> e : root.get("expected").properties()) {
                for (JsonNode c : e.getValue().get("encode")) {
                    id(c.get(1));
                    id(c.get(2));
                }
                names.add(folder + e.getKey() + ".encode");
                names.add(folder + e.getKey() + ".encode without special tokens");
            }
        }, (_, _, _) -> {
        }, (root, folder, names) -> {
            root.get("encode").forEach(c -> id(c.get(IDS)));
            root.get("chat").forEach(c -> id(c.get(IDS)));
            names.add(folder + "encode");
            names.add(folder + "chat.ids");
        });
    }

    static void errors(Path bundle, Set<String> checks) throws IOException {
        edit(bundle, checks,
                (root, folder, names) -> each(root, ERROR, names, folder, c -> c.set(ERROR, character(c.get(ERROR)))),
                (root, folder, names) -> templates(root, ERROR, true, folder, names), (_, _, _) -> {
                });
    }
}
