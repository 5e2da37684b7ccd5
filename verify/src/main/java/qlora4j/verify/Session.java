package qlora4j.verify;

import qlora4j.tensor.Backend;
import qlora4j.tensor.Stream;

/** What every check works with: a backend, and the report that takes the outcomes. */
final class Session extends OnBackend {
    private final Report report;

    Session(Backend backend, Stream stream, Report report) {
        super(backend, stream);
        this.report = report;
    }

    Report report() {
        return report;
    }
}
