package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Objects;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.function.Consumer;
import qlora4j.blockwise.QuantType;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Stream;

/** Runs a conformance bundle: a folder of recorded inputs and results of other implementations. */
public final class Conformance {
    private static final String ENDING = ".safetensors";

    private Conformance() {
    }

    /**
     * What is run.
     *
     * @param bundle the folder
     * @param backend that computes; the caller's
     * @param model the directory of the real model that the bundle records, or null
     * @param selfTest whether to check the checks instead: every kind of record is perturbed beyond its limit, and a
     *     check that still passes counts as failed
     */
    public record Options(Path bundle, Backend backend, Path model, boolean selfTest) {
        public Options {
            Objects.requireNonNull(bundle, "bundle");
            Objects.requireNonNull(backend, "backend");
        }
    }

    /** How many checks ended in which way. */
    public record Summary(int passed, int failed, int unsupported) {
        /** Whether nothing failed and something ran. */
        public boolean ok() {
            return failed == 0 && passed > 0;
        }

        @Override
        public String toString() {
            return passed + " passed, " + failed + " failed, " + unsupported + " unsupported";
        }
    }

    /**
     * Runs a bundle.
     *
     * @param out takes a line per check, and the summary as the last
     * @throws IOException if the bundle is no folder or a file of it cannot be read
     */
    public static Summary run(Options options, Consumer<String> out) throws IOException {
        if (!Files.isDirectory(options.bundle())) {
            throw new IOException(options.bundle() + ": there is no such folder; give a conformance bundle");
        }
        if (options.selfTest()) {
            Summary summary = SelfTest.run(options, out);
            out.accept(summary.toString());
            return summary;
        }
        AtomicBoolean any = new AtomicBoolean();
        Report report = new Report(line -> {
            any.set(true);
            out.accept(line);
        }, _ -> true);
        try (Stream stream = options.backend().openStream()) {
            run(new Session(options.backend(), stream, report), options);
        }
        if (!any.get()) {
            out.accept("nothing to check: " + options.bundle() + " holds no file or folder that a bundle has"
                    + " (docs/verify.md); another implementation's dump is judged with --against VECTORS");
        }
        out.accept(report.summary().toString());
        return report.summary();
    }

    /** Runs what a bundle holds. */
    static void run(Session session, Options options) throws IOException {
        Path bundle = options.bundle();
        for (QuantType type : QuantType.values()) {
            Path file = bundle.resolve(type + ENDING);
            if (Files.exists(file)) {
                FourBitChecks.run(session, file, type);
            }
        }
        if (Files.exists(bundle.resolve(EightBitChecks.FILE + ENDING))) {
            EightBitChecks.run(session, bundle.resolve(EightBitChecks.FILE + ENDING));
        }
        if (Files.exists(bundle.resolve(OptimizerChecks.FILE + ENDING))) {
            OptimizerChecks.run(session, bundle.resolve(OptimizerChecks.FILE + ENDING));
        }
        folder(session, options, bundle.toRealPath());
        try (java.util.stream.Stream<Path> files = Files.list(bundle)) {
            for (Path folder : files.filter(Files::isDirectory).sorted().toList()) {
                folder(session, options, folder);
            }
        }
    }

    private static void folder(Session session, Options options, Path folder) throws IOException {
        String name = folder.getFileName().toString();
        if (ModelChecks.describes(folder)) {
            ModelChecks.run(session, name, folder);
        } else if (TemplateChecks.describes(folder)) {
            TemplateChecks.run(session, name, folder);
        } else if (TokenizerChecks.describes(folder)) {
            TokenizerChecks.run(session, name, folder);
        } else if (RealModelChecks.describes(folder)) {
            realModel(session, options, name, folder);
        }
    }

    private static void realModel(Session session, Options options, String name, Path folder) throws IOException {
        String needs = RealModelChecks.needs(options);
        if (!needs.isEmpty()) {
            session.report().notRun(name, needs);
        } else {
            RealModelChecks.run(session, name, folder, options.model());
        }
    }
}
