package qlora4j.blockwise;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonFactoryBuilder;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.core.StreamReadFeature;
import com.fasterxml.jackson.core.json.JsonReadFeature;
import java.io.IOException;
import java.math.BigDecimal;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import qlora4j.tensor.DType;

/**
 * The JSON that a bitsandbytes 4-bit checkpoint keeps beside each weight. It is written as Python's {@code json.dumps}
 * writes it: keys in bitsandbytes' order, a space after commas and colons, numbers as Python's {@code repr}.
 *
 * @param offset the mean of the constants; null without double quantization
 */
record QuantState(QuantConfig config, DType dtype, long[] shape, Float offset) {
    private static final JsonFactory JSON =
            new JsonFactoryBuilder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION)
                    .enable(JsonReadFeature.ALLOW_NON_NUMERIC_NUMBERS).build();

    /** The bytes of a {@code quant_state} tensor. */
    byte[] toJson() {
        StringBuilder json = new StringBuilder("{\"quant_type\": \"").append(config.type());
        json.append("\", \"blocksize\": ").append(config.blocksize());
        json.append(", \"dtype\": \"").append(torchName(dtype));
        json.append("\", \"shape\": ").append(Arrays.toString(shape));
        if (config.nested()) {
            json.append(", \"nested_blocksize\": ").append(QuantConfig.NESTED_BLOCKSIZE);
            json.append(", \"nested_dtype\": \"").append(torchName(DType.F32));
            json.append("\", \"nested_offset\": ").append(pythonRepr(offset));
        }
        return json.append('}').toString().getBytes(StandardCharsets.US_ASCII);
    }

    /**
     * Parses the bytes of a {@code quant_state} tensor; keys that are not known are passed over.
     *
     * @throws IOException if they are not such JSON; the message says why, not where
     */
    static QuantState parse(byte[] json) throws IOException {
        String type = null;
        String dtype = null;
        String nestedDtype = null;
        Integer blocksize = null;
        Integer nestedBlocksize = null;
        Double offset = null;
        long[] shape = null;
        try (JsonParser parser = JSON.createParser(json)) {
            expect(parser, parser.nextToken(), JsonToken.START_OBJECT);
            while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String key = parser.currentName();
                JsonToken value = parser.nextToken();
                switch (key) {
                    case "quant_type" -> type = text(parser, value);
                    case "dtype" -> dtype = text(parser, value);
                    case "nested_dtype" -> nestedDtype = text(parser, value);
                    case "blocksize" -> blocksize = integer(parser, value);
                    case "nested_blocksize" -> nestedBlocksize = integer(parser, value);
                    case "nested_offset" -> offset = number(parser, value);
                    case "shape" -> shape = shape(parser, value);
                    default -> parser.skipChildren();
                }
            }
            expect(parser, parser.currentToken(), JsonToken.END_OBJECT);
        } catch (JsonProcessingException e) {
            throw new IOException("it is not JSON: " + e.getOriginalMessage(), e);
        }
        if (type == null || blocksize == null || dtype == null || shape == null) {
            throw new IOException("quant_type, blocksize, dtype and shape must all be there");
        }
        boolean nested = offset != null || nestedBlocksize != null || nestedDtype != null;
        if (nested && (offset == null || nestedBlocksize == null || !torchName(DType.F32).equals(nestedDtype)
                || nestedBlocksize != QuantConfig.NESTED_BLOCKSIZE)) {
            throw new IOException("double quantization is read with nested_blocksize " + QuantConfig.NESTED_BLOCKSIZE
                    + ", nested_dtype float32 and a nested_offset; here they are " + nestedBlocksize + ", "
                    + nestedDtype + " and " + offset);
        }
        try {
            QuantConfig config = new QuantConfig(QuantType.named(type), blocksize, nested);
            return new QuantState(config, torchType(dtype), shape, nested ? Float.valueOf(offset.floatValue()) : null);
        } catch (IllegalArgumentException e) {
            throw new IOException(e.getMessage(), e);
        }
    }

    private static void expect(JsonParser parser, JsonToken actual, JsonToken expected) throws IOException {
        if (actual != expected) {
            throw new IOException("expected " + expected + " at " + parser.currentTokenLocation().getCharOffset()
                    + ", found " + actual);
        }
    }

    private static String text(JsonParser parser, JsonToken value) throws IOException {
        expect(parser, value, JsonToken.VALUE_STRING);
        return parser.getText();
    }

    private static int integer(JsonParser parser, JsonToken value) throws IOException {
        expect(parser, value, JsonToken.VALUE_NUMBER_INT);
        return parser.getIntValue();
    }

    private static double number(JsonParser parser, JsonToken value) throws IOException {
        if (value != JsonToken.VALUE_NUMBER_INT) {
            expect(parser, value, JsonToken.VALUE_NUMBER_FLOAT);
        }
        return parser.getDoubleValue();
    }

    private static long[] shape(JsonParser parser, JsonToken value) throws IOException {
        expect(parser, value, JsonToken.START_ARRAY);
        List<Long> dimensions = new ArrayList<>();
        while (parser.nextToken() != JsonToken.END_ARRAY) {
            expect(parser, parser.currentToken(), JsonToken.VALUE_NUMBER_INT);
            dimensions.add(parser.getLongValue());
        }
        return dimensions.stream().mapToLong(Long::longValue).toArray();
    }

    private static String torchName(DType dtype) {
        return switch (dtype) {
            case F64 -> "float64";
            case F32 -> "float32";
            case F16 -> "float16";
            case BF16 -> "bfloat16";
            default -> throw new IllegalArgumentException("a 4-bit checkpoint of " + dtype + " weights");
        };
    }

    private static DType torchType(String name) {
        for (DType t : List.of(DType.F64, DType.F32, DType.F16, DType.BF16)) {
            if (torchName(t).equals(name)) {
                return t;
            }
        }
        throw new IllegalArgumentException("dtype \"" + name + "\": expected float32, bfloat16, float16 or float64");
    }

    /** A number as Python prints it: the shortest digits, with an exponent below 1e-4 and from 1e16 on. */
    static String pythonRepr(double value) {
        if (Double.isNaN(value)) {
            return "NaN";
        }
        if (Double.isInfinite(value)) {
            return value > 0 ? "Infinity" : "-Infinity";
        }
        String sign = Double.doubleToRawLongBits(value) < 0 ? "-" : "";
        if (value == 0) {
            return sign + "0.0";
        }
        BigDecimal shortest = new BigDecimal(Double.toString(Math.abs(value))).stripTrailingZeros();
        String digits = shortest.unscaledValue().toString();
        int exponent = digits.length() - 1 - shortest.scale();
        if (exponent < -4 || exponent >= 16) {
            String fraction = digits.length() == 1 ? "" : "." + digits.substring(1);
            return sign + digits.charAt(0) + fraction + String.format("e%s%02d", exponent < 0 ? "-" : "+",
                    Math.abs(exponent));
        }
        String plain = shortest.toPlainString();
        return sign + plain + (plain.indexOf('.') < 0 ? ".0" : "");
    }

    @Override
    public String toString() {
        return config + " of " + dtype + Arrays.stream(shape).mapToObj(Long::toString)
                .collect(Collectors.joining(", ", "[", "]"));
    }
}
