package qlora4j.verify;

import java.io.IOException;
import java.nio.file.Path;
import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.DynamicMap;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** The 8-bit maps, codes, constants and values of {@code blockwise8.safetensors}, bit for bit. */
final class EightBitChecks {
    static final String FILE = "blockwise8";
    private static final String GROUP = FILE + ".";
    private static final Pattern CASE = Pattern.compile("((.+)\\.(\\w+)\\.b(\\d+))\\.q");
    private static final String DYNAMIC = "dynamic_";

    private static final String LINEAR = "linear_signed";
    private static final int LINEAR_POINTS = 255;

    private EightBitChecks() {
    }

    static void run(Session session, Path file) throws IOException {
        try (Safetensors recorded = Safetensors.open(file)) {
            for (String key : recorded.names()) {
                Matcher m = CASE.matcher(key);
                if (m.matches()) {
                    if (map(m.group(3)) == null) {
                        session.report().unsupported(GROUP + key, "8-bit map " + m.group(3));
                    } else {
                        oneCase(session, recorded, m.group(1), map(m.group(3)), Integer.parseInt(m.group(4)));
                    }
                } else if (key.equals(LINEAR)) {
                    session.report().check(GROUP + key, () -> Compare.bits(linear(), recorded.tensor(key)));
                } else if (key.indexOf('.') < 0 && map(key) == null) {
                    session.report().unsupported(GROUP + key, "8-bit map " + key);
                } else if (key.indexOf('.') < 0) {
                    session.report().check(GROUP + key, () -> Compare.bits(
                            Tensor.of(map(key).table(), DynamicMap.SIZE), recorded.tensor(key)));
                }
            }
        }
    }

    /** Whether a record is a map that this version has. */
    static boolean isMap(String name) {
        return map(name) != null || name.equals(LINEAR);
    }

    /**
     * The linear map, which nothing here uses, from its definition: 255 points from -1 to 1, counted from the nearer
     * end as in PyTorch, and a second zero in the middle.
     */
    private static Tensor linear() {
        float step = 2f / (LINEAR_POINTS - 1);
        float[] map = new float[LINEAR_POINTS + 1];
        for (int i = 0; i < LINEAR_POINTS; i++) {
            int half = LINEAR_POINTS / 2;
            float value = i < half ? Math.fma(step, i, -1f) : Math.fma(-step, LINEAR_POINTS - 1 - i, 1f);
            map[i < half ? i : i + 1] = value;
        }
        return Tensor.of(map, map.length);
    }

    private static DynamicMap map(String name) {
        for (DynamicMap map : DynamicMap.values()) {
            if (name.equals(DYNAMIC + map.name().toLowerCase(Locale.ROOT))) {
                return map;
            }
        }
        return null;
    }

    private static void oneCase(Session session, Safetensors recorded, String key, DynamicMap map, int blocksize) {
        Tensor input = recorded.tensor(key + ".input");
        Tensor codes = recorded.tensor(key + ".q");
        Tensor absmax = recorded.tensor(key + ".absmax");
        Lazy<Tensor[]> ours = new Lazy<>(() -> {
            Tensor q = session.poisoned(DType.U8, input.size());
            Tensor a = session.poisoned(DType.F32, absmax.size());
            Blockwise.quantize8(session.stream(), session.device(input), null, map, blocksize, q, a);
            return new Tensor[]{session.host(q), session.host(a)};
        });
        Report report = session.report();
        report.check(GROUP + key + ".absmax", () -> Compare.bits(ours.get()[1], absmax));
        report.check(GROUP + key + ".q", () -> Compare.bits(ours.get()[0], codes));
        report.check(GROUP + key + ".dequant", () -> {
            Tensor out = session.poisoned(DType.F32, input.size());
            Blockwise.dequantize8(session.stream(), session.device(codes), session.device(absmax), null, map,
                    blocksize, out);
            return Compare.bits(session.host(out), recorded.tensor(key + ".dequant"));
        });
    }
}
