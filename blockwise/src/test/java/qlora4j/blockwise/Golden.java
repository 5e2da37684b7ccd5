package qlora4j.blockwise;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.net.URISyntaxException;
import java.nio.file.Path;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Recorded data of the test resources, and comparisons that a NaN cannot slip through. */
final class Golden {
    private Golden() {
    }

    static Path path(String name) {
        try {
            return Path.of(Golden.class.getResource("/golden/" + name).toURI());
        } catch (URISyntaxException e) {
            throw new IllegalStateException(e);
        }
    }

    static Safetensors open(String name) {
        try {
            return Safetensors.open(path(name));
        } catch (IOException e) {
            throw new UncheckedIOException(e);
        }
    }

    /** The bits of element {@code i}, all NaNs alike: their sign and payload are not part of the contract. */
    static long bits(Tensor t, long i) {
        return Double.doubleToLongBits(t.get(i));
    }

    /** Fails unless both have the same type, size and bits (the sign of a zero included). */
    static void assertSame(String what, Tensor actual, Tensor expected) {
        assertThat(actual.dtype()).as(what).isEqualTo(expected.dtype());
        assertThat(actual.size()).as(what).isEqualTo(expected.size());
        for (long i = 0; i < expected.size(); i++) {
            if (bits(actual, i) != bits(expected, i)) {
                throw new AssertionError(what + ", element " + i + " of " + expected.size() + ": " + actual.get(i)
                        + ", expected " + expected.get(i));
            }
        }
    }

    /** A host tensor with every byte set, so that what a kernel leaves out shows. */
    static Tensor poisoned(DType dtype, long... shape) {
        Tensor t = Tensor.zeros(dtype, shape);
        t.data().fill((byte) 0xff);
        return t;
    }

    /** A quantized tensor in poisoned host memory. */
    static QuantizedTensor poisoned(QuantConfig config, DType dtype, long... shape) {
        long n = Tensor.elements(shape);
        return new QuantizedTensor(config, dtype, shape, poisoned(DType.U8, (n + 1) / 2),
                poisoned(config.nested() ? DType.U8 : DType.F32, config.blocks(n)),
                config.nested() ? poisoned(DType.F32, config.nestedBlocks(n)) : null,
                config.nested() ? poisoned(DType.F32, 1) : null);
    }
}
