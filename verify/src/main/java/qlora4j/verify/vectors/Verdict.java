package qlora4j.verify.vectors;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.stream.Stream;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * Judges another implementation's dump against test vectors: every tensor that the dump has is compared in the order of
 * the data's flow, and the first that differs is explained. A dump holds outputs under their names in the bundle; what
 * it leaves out is counted, and nothing is held against it.
 */
public final class Verdict {
    private static final String ENDING = ".safetensors";

    /** How a tensor compares. */
    public enum Status {
        OK, DIFFERS, MISSING, UNKNOWN;

        @Override
        public String toString() {
            return name().toLowerCase(Locale.ROOT);
        }
    }

    /**
     * One tensor.
     *
     * @param name its full name
     * @param section of the specification
     * @param detail how far it is apart, or what is wrong with its shape
     * @param explanation why it differs; null where it does not
     */
    public record Line(String name, String section, Status status, String detail, Explanation explanation) {
    }

    /**
     * How and why a tensor differs.
     *
     * @param first the flat index of the first difference; -1 where shapes differ
     * @param theirs the dump's element there
     * @param ours the bundle's
     * @param ulps elements by their distance in units in the last place; empty where shapes differ
     * @param findings ids of the faults that, applied, give the dump's tensor
     * @param nearest what comes nearest where nothing explains all; or null
     * @param sentences the findings, or the nearest hypothesis, in words
     */
    public record Explanation(long first, double theirs, double ours, Map<String, Long> ulps, List<String> findings,
            String nearest, List<String> sentences) {
    }

    private final List<Line> lines;

    private Verdict(List<Line> lines) {
        this.lines = List.copyOf(lines);
    }

    /** All tensors in the order of the data's flow, then unknown ones. */
    public List<Line> lines() {
        return lines;
    }

    /** How many tensors have a status. */
    public long count(Status status) {
        return lines.stream().filter(line -> line.status() == status).count();
    }

    /** The first tensor that differs, or null. */
    public Line first() {
        return lines.stream().filter(line -> line.status() == Status.DIFFERS).findFirst().orElse(null);
    }

    /**
     * Compares a dump with a bundle.
     *
     * @param foreign a safetensors file, or a folder of them
     * @param bundle a folder of test vectors
     * @throws IOException if one of them cannot be read; the message names it
     */
    public static Verdict of(Path foreign, Path bundle) throws IOException {
        List<Path> files = files(foreign);
        List<Safetensors> open = new ArrayList<>();
        try (Safetensors vectors = VectorBundle.open(bundle)) {
            Map<String, Safetensors> holders = new LinkedHashMap<>();
            for (Path file : files) {
                Safetensors dump = Safetensors.open(file);
                open.add(dump);
                dump.names().forEach(name -> holders.put(name, dump));
            }
            return judge(holders, vectors);
        } finally {
            open.forEach(Safetensors::close);
        }
    }

    /**
     * Judges a backend of this project by test vectors.
     *
     * @throws IOException if the vectors cannot be read; the message names the file
     */
    public static Verdict of(Backend backend, Path bundle) throws IOException {
        Path dump = Files.createTempFile("qlora-vectors", ENDING);
        try {
            VectorBundle.dump(dump, backend);
            return of(dump, bundle);
        } finally {
            Files.delete(dump);
        }
    }

    private static List<Path> files(Path foreign) throws IOException {
        if (!Files.exists(foreign)) {
            throw new IOException(foreign + ": there is no such file or folder; give a dump in safetensors");
        }
        if (!Files.isDirectory(foreign)) {
            return List.of(foreign);
        }
        try (Stream<Path> all = Files.list(foreign)) {
            List<Path> files = all.filter(f -> f.getFileName().toString().endsWith(ENDING)).sorted().toList();
            if (files.isEmpty()) {
                throw new IOException(
                        foreign + ": the folder holds no " + ENDING + " file; give a dump in safetensors");
            }
            return files;
        }
    }

    private static Verdict judge(Map<String, Safetensors> dump, Safetensors vectors) {
        List<Line> lines = new ArrayList<>();
        Set<String> known = new HashSet<>(vectors.names());
        for (Operation operation : Operations.inOrder()) {
            judge(operation, dump, vectors, lines);
        }
        for (String name : dump.keySet()) {
            if (!known.contains(name)) {
                lines.add(new Line(name, "", Status.UNKNOWN, "the vectors have no tensor of this name", null));
            }
        }
        return new Verdict(lines);
    }

    private static void judge(Operation operation, Map<String, Safetensors> dump, Safetensors vectors,
            List<Line> lines) {
        Map<String, Tensor> theirs = new LinkedHashMap<>();
        for (Operation.Output output : operation.outputs()) {
            String name = VectorBundle.output(operation, output.name());
            if (dump.containsKey(name)) {
                theirs.put(output.name(), dump.get(name).tensor(name));
            }
        }
        Set<String> spoiled = new HashSet<>();
        Operation by = operation;
        for (Operation.Output output : operation.outputs()) {
            String name = VectorBundle.output(operation, output.name());
            Tensor their = theirs.get(output.name());
            if (their == null) {
                lines.add(new Line(name, operation.section(), Status.MISSING, "", null));
                continue;
            }
            Tensor ours = by == operation ? vectors.tensor(name) : by.compute((Fault) null).get(output.name());
            boolean follows = output.after().stream().anyMatch(spoiled::contains);
            Line line = compare(by, output, their, ours, !follows);
            if (line.status() == Status.DIFFERS) {
                spoiled.add(output.name());
            }
            lines.add(line);
            if (output.goOn() && line.status() == Status.OK) {
                by = operation.goingOnFrom(theirs);
            }
        }
    }

    /** What is computed from an output that differs is compared and not explained. */
    private static Line compare(Operation operation, Operation.Output output, Tensor theirs, Tensor ours,
            boolean explain) {
        String name = VectorBundle.output(operation, output.name());
        Tensor same = likeOurs(theirs, ours);
        if (same == null) {
            Explanation why = explain ? explanation(operation, output, theirs, ours) : null;
            return new Line(name, operation.section(), Status.DIFFERS,
                    "it is " + theirs + ", expected " + ours, why);
        }
        double distance = Diagnosis.distance(same, ours, output);
        if (distance <= output.limit()) {
            String detail = output.isExact() ? ours.size() + " equal"
                    : "max |d| " + number(distance) + ", limit "
                            + number(output.limit());
            return new Line(name, operation.section(), Status.OK, detail, null);
        }
        String detail = output.isExact() ? (long) distance + " of " + ours.size() + " differ"
                : "max |d| " + number(distance) + ", limit " + number(output.limit());
        return new Line(name, operation.section(), Status.DIFFERS, detail,
                explain ? explanation(operation, output, same, ours) : null);
    }

    /** Their tensor in our type where it has our size and holds our kind of numbers; else null. */
    private static Tensor likeOurs(Tensor theirs, Tensor ours) {
        if (theirs.size() != ours.size() || theirs.dtype().isFloat() != ours.dtype().isFloat()) {
            return null;
        }
        if (theirs.dtype() == ours.dtype()) {
            return theirs;
        }
        // Wider numbers than ours are rounded; narrower ones are what they are.
        return ours.dtype() == DType.U8 ? null : Tensor.zeros(ours.dtype(), ours.shape()).copyFrom(theirs);
    }

    private static Explanation explanation(Operation operation, Operation.Output output, Tensor theirs, Tensor ours) {
        Diagnosis d = Diagnosis.of(operation, output, theirs, ours);
        List<String> sentences = new ArrayList<>();
        d.findings().forEach(f -> sentences.add(f.id() + ": " + f.explanation()));
        if (d.nearest() != null) {
            sentences.add("nearest hypothesis, " + d.nearest().id() + ": " + d.nearest().explanation() + "; it leaves "
                    + (output.isExact() ? (long) d.left() + " elements different" : "max |d| " + number(d.left())));
        }
        if (sentences.isEmpty()) {
            sentences.add("no hypothesis explains it");
        }
        boolean sameShape = theirs.size() == ours.size() && theirs.dtype() == ours.dtype();
        UlpHistogram h = sameShape ? UlpHistogram.of(theirs, ours) : new UlpHistogram(-1, 0, Map.of());
        double a = h.first() < 0 ? Double.NaN : theirs.get(h.first());
        double b = h.first() < 0 ? Double.NaN : ours.get(h.first());
        return new Explanation(h.first(), a, b, h.counts(), d.findings().stream().map(Fault::id).toList(),
                d.nearest() == null ? null : d.nearest().id(), sentences);
    }

    private static String number(double x) {
        return String.format(Locale.ROOT, "%.3g", x);
    }
}
