package qlora4j.verify;

import java.util.Arrays;

/** Counts exact comparisons of texts and token ids, and keeps the first that differs. */
final class TextTally {
    private static final int SHOWN = 120;

    private long total;
    private long differing;
    private String first = "";

    void text(String what, String ours, String recorded) {
        add(ours.equals(recorded), what, ours, recorded);
    }

    void ids(String what, int[] ours, int[] recorded) {
        add(Arrays.equals(ours, recorded), what, Arrays.toString(ours), Arrays.toString(recorded));
    }

    private void add(boolean same, String what, String ours, String recorded) {
        total++;
        if (!same && differing++ == 0) {
            first = what + ": " + shown(ours) + ", recorded " + shown(recorded);
        }
    }

    private static String shown(String text) {
        String line = text.replace("\n", "\\n");
        return line.length() <= SHOWN ? line : line.substring(0, SHOWN) + "...";
    }

    Outcome outcome() {
        return Outcome.equal(differing, total, first);
    }
}
