package qlora4j.verify;

import java.io.IOException;
import java.util.function.Consumer;
import java.util.function.Predicate;

/** Runs checks, writes a line for each and counts how they ended. */
class Report {
    /** A check. */
    interface Body {
        Outcome run() throws IOException;
    }

    private static final String LINE = "%-11s  %s  %s  limit %s";

    private final Consumer<String> out;
    private final Predicate<String> wanted;
    private int passed;
    private int failed;
    private int unsupported;

    /**
     * @param out takes the lines
     * @param wanted says of a check's name whether it is to be run
     */
    Report(Consumer<String> out, Predicate<String> wanted) {
        this.out = out;
        this.wanted = wanted;
    }

    /** Runs a check, if it is wanted. One that cannot be finished has failed, and its line says why. */
    void check(String name, Body body) {
        if (!wanted.test(name)) {
            return;
        }
        Outcome outcome;
        try {
            outcome = body.run();
        } catch (IOException | RuntimeException e) {
            outcome = Outcome.fail(e.toString());
        }
        finished(name, outcome);
    }

    /** Counts a check and writes its line. */
    void finished(String name, Outcome outcome) {
        if (outcome.ok()) {
            passed++;
        } else {
            failed++;
        }
        out.accept(LINE.formatted(outcome.ok() ? "ok" : "FAIL", name, outcome.measured(), outcome.limit()));
    }

    /** Counts a record that this version cannot be compared with. */
    void unsupported(String name, String why) {
        if (wanted.test(name)) {
            unsupported++;
            out.accept("%-11s  %s  %s".formatted("unsupported", name, why));
        }
    }

    /** Says that a record was left out; it is counted nowhere. */
    void notRun(String name, String why) {
        if (wanted.test(name)) {
            out.accept("not run: " + why + "  " + name);
        }
    }

    Conformance.Summary summary() {
        return new Conformance.Summary(passed, failed, unsupported);
    }
}
