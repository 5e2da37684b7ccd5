package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.databind.DeserializationFeature;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.json.JsonMapper;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import java.util.regex.Pattern;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.ShrinkingMode;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;
import net.jqwik.api.statistics.Statistics;
import qlora4j.tensor.DType;

/**
 * Random damage to valid files. A damaged file opens exactly when a second, plain reading of the format in this test
 * accepts it, and then with the same contents; else it is refused with the named exception and no other.
 */
class FuzzPropertyTest {
    private static final JsonMapper TREE = JsonMapper.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
            .enable(DeserializationFeature.FAIL_ON_TRAILING_TOKENS).build();
    /** A minus sign that a parsed tree forgets: -0. */
    private static final Pattern MINUS = Pattern.compile("(shape|data_offsets)\"\\s*:\\s*\\[[^]]*-");
    /** Percent of the damaged files that must stay valid, and that must not. */
    private static final double MUST_OCCUR = 5;
    private static final String JSON = "{}[]\",:0123456789-.eE \\UFI_";
    private static byte[] valid;
    private static Path directory;

    @BeforeContainer
    static void writeAValidFile() throws IOException {
        directory = Files.createTempDirectory("fuzz");
        Path file = directory.resolve("valid.safetensors");
        SafetensorsWriter writer = new SafetensorsWriter().metadata("k", "v").metadata("format", "pt");
        for (DType d : List.of(DType.F64, DType.F32, DType.F16, DType.F8_E4M3, DType.F4, DType.BOOL)) {
            writer.add("w" + d.ordinal(), d, MemorySegment.ofArray(new byte[d.bits()]), 2, 4);
        }
        writer.add("s", DType.F32, MemorySegment.ofArray(new byte[4]));
        writer.add("zero", DType.I32, MemorySegment.ofArray(new byte[0]), 0, 10);
        writer.write(file);
        valid = Files.readAllBytes(file);
        Files.delete(file);
    }

    @AfterContainer
    static void delete() throws IOException {
        Files.delete(directory);
    }

    @Property(tries = 3000, shrinking = ShrinkingMode.OFF)
    void damagedFilesOpenAsTheyReadOrAreRefused(@ForAll long seed) throws IOException {
        byte[] bytes = damage(new Random(seed));
        Map<String, String> expected = read(bytes);
        // Both ways must be gone often, or this shows nothing.
        Statistics.label("valid").collect(expected != null).coverage(c -> {
            c.check(true).percentage(p -> p > MUST_OCCUR);
            c.check(false).percentage(p -> p > MUST_OCCUR);
        });
        Path file = Files.write(directory.resolve("damaged.safetensors"), bytes);
        try (Safetensors s = Safetensors.open(file)) {
            assertThat(expected).as("opened, but it is malformed").isNotNull();
            Map<String, String> actual = new TreeMap<>();
            for (String name : s.names()) {
                TensorInfo t = s.info(name);
                actual.put(name, t.dtype() + Arrays.toString(t.shape()) + " at " + t.offset());
                assertThat(s.tensor(name).data().toArray(ValueLayout.JAVA_BYTE))
                        .isEqualTo(Arrays.copyOfRange(bytes, (int) t.offset(), (int) (t.offset() + t.bytes())));
            }
            s.metadata().forEach((k, v) -> actual.put("metadata " + k, v));
            assertThat(actual).isEqualTo(expected);
        } catch (SafetensorsException e) {
            assertThat(expected).as(e.getMessage()).isNull();
            assertThat(e).hasMessageContaining(file.toString());
        } finally {
            Files.deleteIfExists(file);
        }
    }

    /** Some of: a byte changed to any other or to one that JSON uses, inserted, removed; the end cut or extended. */
    private static byte[] damage(Random random) {
        List<Byte> bytes = new ArrayList<>();
        for (byte b : valid) {
            bytes.add(b);
        }
        // Spaces alone often leave the file valid.
        boolean gentle = random.nextInt(3) == 0;
        for (int n = 1 + random.nextInt(3); n > 0; n--) {
            // Most of the damage goes to the header; its length's bytes are a few of it.
            int at = random.nextInt(bytes.size() - (random.nextInt(4) == 0 ? 0 : 120));
            byte any = (byte) random.nextInt(256);
            byte json = (byte) JSON.charAt(random.nextInt(JSON.length()));
            switch (gentle ? 3 : random.nextInt(6)) {
                case 0 -> bytes.set(at, any);
                case 1, 2 -> bytes.set(at, json);
                case 3 -> bytes.add(at, gentle || random.nextBoolean() ? (byte) ' ' : json);
                case 4 -> bytes.remove(at);
                default -> bytes.set(at, bytes.get(random.nextInt(bytes.size())));
            }
        }
        byte[] out = new byte[bytes.size()];
        for (int i = 0; i < out.length; i++) {
            out[i] = bytes.get(i);
        }
        // Half of the time, the header's length follows what it grew or shrank by.
        if ((gentle || random.nextBoolean()) && Arrays.equals(out, 0, 8, valid, 0, 8)) {
            ByteBuffer length = ByteBuffer.wrap(out).order(ByteOrder.LITTLE_ENDIAN);
            length.putLong(0, length.getLong(0) + out.length - valid.length);
        }
        return out;
    }

    /** The contents by a plain reading of the format, or null where it is malformed. */
    private static Map<String, String> read(byte[] bytes) throws IOException {
        if (bytes.length < 8) {
            return null;
        }
        long length = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).getLong();
        if (length < 0 || length > bytes.length - 8) {
            return null;
        }
        JsonNode root;
        try {
            String json =
                    StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes, 8, (int) length)).toString();
            root = MINUS.matcher(json).find() ? null : TREE.readTree(json);
        } catch (CharacterCodingException | JsonProcessingException e) {
            return null;
        }
        if (root == null || !root.isObject()) {
            return null;
        }
        Map<String, String> contents = new TreeMap<>();
        List<long[]> spans = new ArrayList<>();
        for (Map.Entry<String, JsonNode> e : root.properties()) {
            if (e.getKey().equals("__metadata__")) {
                if (!e.getValue().isObject() || !e.getValue().valueStream().allMatch(JsonNode::isTextual)) {
                    return null;
                }
                e.getValue().properties()
                        .forEach(m -> contents.put("metadata " + m.getKey(), m.getValue().textValue()));
                continue;
            }
            long[] span = span(e.getValue());
            if (span == null) {
                return null;
            }
            spans.add(span);
            JsonNode t = e.getValue();
            List<String> shape = t.get("shape").valueStream().map(JsonNode::asText).toList();
            contents.put(e.getKey(), t.get("dtype").textValue() + shape + " at " + (8 + length + span[0]));
        }
        spans.sort(Arrays::compare);
        long end = 0;
        for (long[] s : spans) {
            if (s[0] != end) {
                return null;
            }
            end = s[1];
        }
        return end == bytes.length - 8 - length ? contents : null;
    }

    /** A tensor's span where its entry is right and the span is shape times dtype, else null. */
    private static long[] span(JsonNode t) {
        if (!t.isObject() || t.size() != 3 || !t.path("dtype").isTextual() || !t.path("shape").isArray()
                || !t.path("data_offsets").isArray() || t.get("data_offsets").size() != 2
                || !t.get("shape").valueStream().allMatch(JsonNode::isIntegralNumber)
                || !t.get("data_offsets").valueStream().allMatch(JsonNode::isIntegralNumber)
                || !Set.copyOf(Arrays.stream(DType.values()).map(DType::name).toList())
                        .contains(t.get("dtype").textValue())) {
            return null;
        }
        BigInteger bits = BigInteger.valueOf(DType.valueOf(t.get("dtype").textValue()).bits());
        BigInteger most = BigInteger.valueOf(Long.MAX_VALUE);
        BigInteger elements = BigInteger.ONE;
        for (JsonNode d : t.get("shape")) {
            elements = elements.multiply(d.bigIntegerValue());
            if (d.bigIntegerValue().compareTo(most) > 0 || elements.compareTo(most) > 0) {
                return null;
            }
        }
        BigInteger begin = t.get("data_offsets").get(0).bigIntegerValue();
        BigInteger end = t.get("data_offsets").get(1).bigIntegerValue();
        boolean exact = end.subtract(begin).multiply(BigInteger.valueOf(8)).equals(elements.multiply(bits));
        return exact && end.compareTo(most) <= 0 ? new long[]{begin.longValue(), end.longValue()} : null;
    }
}
