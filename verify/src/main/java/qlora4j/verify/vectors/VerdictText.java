package qlora4j.verify.vectors;

import com.fasterxml.jackson.core.JacksonException;
import com.fasterxml.jackson.databind.SerializationFeature;
import com.fasterxml.jackson.databind.json.JsonMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import qlora4j.verify.vectors.Verdict.Explanation;
import qlora4j.verify.vectors.Verdict.Line;
import qlora4j.verify.vectors.Verdict.Status;

/** A verdict for people, and for programs. */
public final class VerdictText {
    private static final JsonMapper JSON = JsonMapper.builder().enable(SerializationFeature.INDENT_OUTPUT).build();

    private VerdictText() {
    }

    /** What the verdict is in a word: {@code agrees}, {@code differs}, or {@code nothing compared}. */
    public static String word(Verdict verdict) {
        return verdict.count(Status.DIFFERS) > 0 ? "differs"
                : verdict.count(Status.OK) > 0 ? "agrees" : "nothing compared";
    }

    /** Whether something was compared and nothing differs. */
    public static boolean agrees(Verdict verdict) {
        return verdict.count(Status.OK) > 0 && verdict.count(Status.DIFFERS) == 0;
    }

    /** A line for each tensor that was handed in, the first difference explained, and the counts as the last line. */
    public static List<String> lines(Verdict verdict) {
        List<String> out = new ArrayList<>();
        for (Line line : verdict.lines()) {
            if (line.status() != Status.MISSING) {
                out.add("%-8s  %s  %s".formatted(line.status() == Status.DIFFERS ? "DIFFERS" : line.status(),
                        line.name(), line.detail()));
            }
        }
        Line first = verdict.first();
        if (first != null) {
            out.add("");
            out.add("first difference: " + first.name() + " (SPEC.md, section " + first.section() + ")");
            explain(first.explanation(), out);
            for (Line line : verdict.lines()) {
                if (line != first && line.explanation() != null) {
                    out.add("also: " + line.name());
                    explain(line.explanation(), out);
                }
            }
            out.add("");
        }
        out.add(word(verdict) + ": " + verdict.count(Status.OK) + " agree, " + verdict.count(Status.DIFFERS)
                + " differ, " + verdict.count(Status.MISSING) + " not handed in, " + verdict.count(Status.UNKNOWN)
                + " unknown");
        return out;
    }

    private static void explain(Explanation e, List<String> out) {
        if (e.first() >= 0) {
            out.add("  element " + e.first() + " is " + e.theirs() + ", expected " + e.ours());
            StringBuilder ulps = new StringBuilder("  units in the last place:");
            e.ulps().forEach((distance, count) -> ulps.append("  ").append(distance).append(": ").append(count));
            out.add(ulps.toString());
        }
        e.sentences().forEach(s -> out.add("  " + s));
    }

    /** The verdict as JSON. */
    public static String json(Verdict verdict) {
        ObjectNode root = JSON.createObjectNode().put("verdict", word(verdict));
        for (Status status : Status.values()) {
            root.put(status.toString(), verdict.count(status));
        }
        root.put("first_difference", verdict.first() == null ? null : verdict.first().name());
        var list = root.putArray("tensors");
        for (Line line : verdict.lines()) {
            ObjectNode node = list.addObject().put("name", line.name()).put("status", line.status().toString());
            if (!line.detail().isEmpty()) {
                node.put("detail", line.detail());
            }
            Explanation e = line.explanation();
            if (e != null) {
                node.put("first_index", e.first()).put("theirs", e.theirs()).put("ours", e.ours());
                node.set("ulps", JSON.valueToTree(Map.copyOf(e.ulps())));
                node.set("findings", JSON.valueToTree(e.findings()));
                node.put("nearest", e.nearest());
            }
        }
        try {
            return JSON.writeValueAsString(root);
        } catch (JacksonException e) {
            throw new IllegalStateException(e);
        }
    }
}
