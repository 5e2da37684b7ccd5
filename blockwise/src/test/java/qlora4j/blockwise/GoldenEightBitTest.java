package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Locale;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The 8-bit dynamic maps, codes and values against bitsandbytes' CUDA kernels, bit for bit. */
@Tag("lanes")
class GoldenEightBitTest {
    private static final Pattern CASE = Pattern.compile("(.+\\.dynamic_(signed|unsigned)\\.b(\\d+))\\.q");

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void everyCase(String backendName) {
        int cases = 0;
        try (Safetensors golden = Golden.open("blockwise8.safetensors");
                Backend backend = Backends.open(backendName);
                Stream stream = backend.openStream()) {
            Golden.assertSame("signed map", Tensor.of(DynamicMap.SIGNED.table(), DynamicMap.SIZE),
                    golden.tensor("dynamic_signed"));
            Golden.assertSame("unsigned map", Tensor.of(DynamicMap.UNSIGNED.table(), DynamicMap.SIZE),
                    golden.tensor("dynamic_unsigned"));
            for (String name : golden.names()) {
                Matcher m = CASE.matcher(name);
                if (m.matches()) {
                    check(stream, golden, m.group(1), DynamicMap.valueOf(m.group(2).toUpperCase(Locale.ROOT)),
                            Integer.parseInt(m.group(3)));
                    cases++;
                }
            }
        }
        assertThat(cases).isEqualTo(20);
    }

    private static void check(Stream stream, Safetensors golden, String key, DynamicMap map, int blocksize) {
        Tensor input = golden.tensor(key + ".input");
        Tensor codes = Golden.poisoned(DType.U8, input.size());
        Tensor absmax = Golden.poisoned(DType.F32, golden.info(key + ".absmax").elements());
        Blockwise.quantize8(stream, input, null, map, blocksize, codes, absmax);
        Golden.assertSame(key + " absmax", absmax, golden.tensor(key + ".absmax"));
        Golden.assertSame(key + " codes", codes, golden.tensor(key + ".q"));
        Tensor out = Golden.poisoned(DType.F32, input.size());
        Blockwise.dequantize8(stream, codes, absmax, null, map, blocksize, out);
        Golden.assertSame(key + " dequantized", out, golden.tensor(key + ".dequant"));
    }
}
