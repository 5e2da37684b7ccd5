package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Path;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.DynamicMap;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.nf4.Absmax;
import qlora4j.nf4.Codebook;
import qlora4j.nf4.Nibbles;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Codes, constants and dequantized values of {@code nf4.safetensors} and {@code fp4.safetensors}, bit for bit. */
final class FourBitChecks {
    private static final Pattern CASE = Pattern.compile("((.+)\\.b(\\d+))\\.packed");

    /** Inputs on which the recorded flush-to-zero arithmetic differs from ours; see {@link Absmax}. */
    private static final List<String> DIVERGENT = List.of("tiny_", "subnormal_", "zeros_", "zero_block_");

    /** Recorded means are float32 sums: half an ulp for each level of additions, 2^16 constants at most. */
    static final double MEAN_LIMIT = 16 * 0x1p-24;

    private final Session session;
    private final String name;
    private final QuantType type;
    private final Safetensors recorded;

    private FourBitChecks(Session session, String name, QuantType type, Safetensors recorded) {
        this.session = session;
        this.name = name;
        this.type = type;
        this.recorded = recorded;
    }

    static void run(Session session, Path file, QuantType type) throws IOException {
        try (Safetensors recorded = Safetensors.open(file)) {
            new FourBitChecks(session, type.toString(), type, recorded).all();
        }
    }

    /** Whether a case's record follows another arithmetic than the contract. */
    static boolean diverges(String key) {
        return DIVERGENT.stream().anyMatch(key::startsWith);
    }

    private void all() {
        session.report().check(name + ".codebook", () -> Compare.bits(
                Tensor.of(type.codebook().quantMap(), Codebook.SIZE), recorded.tensor("codebook")));
        session.report().check(name + ".nested_codebook", () -> Compare.bits(
                Tensor.of(DynamicMap.SIGNED.table(), DynamicMap.SIZE), recorded.tensor("nested_codebook")));
        for (String key : recorded.names()) {
            Matcher m = CASE.matcher(key);
            if (m.matches()) {
                Case c = new Case(m.group(1), recorded.tensor(m.group(2) + ".input"),
                        new QuantConfig(type, Integer.parseInt(m.group(3)), false));
                if (diverges(key)) {
                    documented(c);
                } else {
                    same(c);
                }
            }
        }
    }

    /** A recorded input; what is quantized is kept for the checks that share it. */
    private final class Case {
        final String key;
        final Tensor input;
        final QuantConfig config;
        final Lazy<QuantizedTensor> ours = new Lazy<>(this::quantized);

        Case(String key, Tensor input, QuantConfig config) {
            this.key = key;
            this.input = input;
            this.config = config;
        }

        private QuantizedTensor quantized() {
            long n = input.size();
            QuantizedTensor w = new QuantizedTensor(config, input.dtype(), input.shape(),
                    session.poisoned(DType.U8, Nibbles.bytes(n)), session.poisoned(DType.F32, config.blocks(n)), null,
                    null);
            Blockwise.quantize(session.stream(), session.device(input), w);
            return w;
        }

        /** The recorded codes with constants that were shown equal to the recorded ones. */
        QuantizedTensor recordedCodes() throws IOException {
            return new QuantizedTensor(config, input.dtype(), input.shape(),
                    session.device(recorded.tensor(key + ".packed")), ours.get().absmax(), null, null);
        }

        QuantizedTensor recordedNested() {
            return new QuantizedTensor(new QuantConfig(type, config.blocksize(), true), input.dtype(), input.shape(),
                    session.device(recorded.tensor(key + ".packed")),
                    session.device(recorded.tensor(key + ".nested.absmax")),
                    session.device(recorded.tensor(key + ".nested.absmax2")),
                    session.device(recorded.tensor(key + ".nested.offset")));
        }

        void check(String part, Report.Body body) {
            session.report().check(name + "." + key + "." + part, body);
        }

        /** A check of one recorded tensor, where it is recorded. */
        void ifRecorded(String part, Report.Body body) {
            if (recorded.contains(key + "." + part)) {
                check(part, body);
            }
        }

        Tensor expected(String part) {
            return recorded.tensor(key + "." + part);
        }
    }

    private void same(Case c) {
        c.check("packed", () -> codes(c));
        c.ifRecorded("absmax", () -> Compare.bits(session.host(c.ours.get().absmax()), c.expected("absmax")));
        c.ifRecorded("dequant", () -> Compare.bits(dequantized(c.recordedCodes()), c.expected("dequant")));
        c.ifRecorded("nested.offset", () -> {
            QuantizedTensor w = nested(c);
            double offset = c.expected("nested.offset").get(0);
            return Outcome.atMost(Math.abs(session.host(w.offset()).get(0) - offset) / Math.abs(offset), MEAN_LIMIT)
                    .named("relative");
        });
        Lazy<Tensor[]> second = new Lazy<>(() -> secondLevel(c));
        c.ifRecorded("nested.absmax2", () -> Compare.bits(second.get()[1], c.expected("nested.absmax2")));
        c.ifRecorded("nested.absmax", () -> nestedCodes(second.get()[0], c.expected("nested.absmax"),
                c.expected("nested.absmax2")));
        c.ifRecorded("nested.scales", () -> {
            QuantizedTensor w = c.recordedNested();
            Tensor scales = session.poisoned(DType.F32, w.absmax().size());
            Blockwise.scales(session.stream(), w, scales);
            return Compare.bits(session.host(scales), c.expected("nested.scales"));
        });
        c.ifRecorded("nested.dequant", () -> Compare.bits(dequantized(c.recordedNested()),
                c.expected("nested.dequant")));
    }

    private QuantizedTensor nested(Case c) {
        return Blockwise.quantize(session.stream(), session.device(c.input),
                new QuantConfig(type, c.config.blocksize(), true));
    }

    /** Codes and constants of the second level with the recorded offset: a mean depends on the order of summation. */
    private Tensor[] secondLevel(Case c) throws IOException {
        Tensor codes = session.poisoned(DType.U8, c.expected("nested.absmax").size());
        Tensor absmax2 = session.poisoned(DType.F32, c.expected("nested.absmax2").size());
        Blockwise.quantize8(session.stream(), c.ours.get().absmax(), session.device(c.expected("nested.offset")),
                DynamicMap.SIGNED, QuantConfig.NESTED_BLOCKSIZE, codes, absmax2);
        return new Tensor[]{session.host(codes), session.host(absmax2)};
    }

    /** Equal codes, but where the second-level constant is 0: any code stands for the offset there. */
    static Outcome nestedCodes(Tensor ours, Tensor recorded, Tensor absmax2) {
        long differing = 0;
        String first = "";
        for (long i = 0; i < recorded.size(); i++) {
            if (ours.get(i) != recorded.get(i) && absmax2.get(i / QuantConfig.NESTED_BLOCKSIZE) != 0) {
                if (differing++ == 0) {
                    first = "code " + i + ": " + (int) ours.get(i) + ", recorded " + (int) recorded.get(i);
                }
            }
        }
        return Outcome.equal(differing, recorded.size(), first);
    }

    private Tensor dequantized(QuantizedTensor w) {
        Tensor out = session.poisoned(w.dtype(), w.shape());
        Blockwise.dequantize(session.stream(), w, out);
        return session.host(out);
    }

    /**
     * Equal codes. FP4's thresholds are ratios of small integers, as quotients of 16-bit inputs are: on such exact ties
     * the recorded approximate reciprocal, an ulp off, may decide otherwise. Such a code is a documented divergence.
     */
    private Outcome codes(Case c) throws IOException {
        Tensor ours = session.host(c.ours.get().packed());
        Tensor theirs = c.expected("packed");
        Outcome same = Compare.bits(ours, theirs);
        Codebook codebook = type.codebook();
        if (same.ok() || !codebook.signMagnitude() || ours.size() != theirs.size()) {
            return same;
        }
        Tensor absmax = session.host(c.ours.get().absmax());
        int ties = 0;
        for (long i = 0; i < c.input.size(); i++) {
            int code = Nibbles.code((byte) theirs.get(i / 2), i);
            if (Nibbles.code((byte) ours.get(i / 2), i) != code) {
                float x = (float) c.input.get(i);
                float reciprocal = Absmax.reciprocal((float) absmax.get(i / c.config.blocksize()));
                if (code != codebook.code(x * Math.nextDown(reciprocal))
                        && code != codebook.code(x * Math.nextUp(reciprocal))) {
                    return same;
                }
                ties++;
            }
        }
        boolean tail = c.input.size() % 2 == 0
                || ((int) ours.get(ours.size() - 1) & 0xf) == ((int) theirs.get(ours.size() - 1) & 0xf);
        return new Outcome(tail, c.input.size() - ties + " equal, " + ties
                + " ties of an approximate reciprocal (documented divergence)", same.limit());
    }

    /** Checks what is documented instead of the record: exact absmax, nearest value, the code of 0 and +0 for zeros. */
    private void documented(Case c) {
        c.check("packed (documented divergence)", () -> {
            DocumentedValues d = new DocumentedValues(c.input, c.config);
            return d.codes(session.host(c.ours.get().packed()));
        });
        c.check("absmax (documented divergence)", () -> Compare.bits(session.host(c.ours.get().absmax()),
                new DocumentedValues(c.input, c.config).absmax()));
        c.check("dequant (documented divergence)", () -> {
            DocumentedValues d = new DocumentedValues(c.input, c.config);
            return Compare.bits(dequantized(c.ours.get()), d.dequantized(session.host(c.ours.get().packed())));
        });
        c.check("nested (documented divergence)", () -> {
            QuantizedTensor w = nested(c);
            DocumentedValues d = new DocumentedValues(c.input, c.config);
            return d.nested(session.host(w.absmax()), session.host(w.absmax2()), session.host(w.offset()));
        });
    }
}
