package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.ShrinkingMode;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.RootAllocator;
import qlora4j.tensor.DType;

/** Random sets of tensors of every dtype: what was written is what is read, and the bytes do not depend on the order. */
class RoundTripPropertyTest {
    record Written(String name, DType dtype, long[] shape, byte[] bytes) {
        @Override
        public String toString() {
            return dtype + Arrays.toString(shape) + " " + SafetensorsException.quote(name);
        }
    }

    @Provide
    Arbitrary<List<Written>> tensors() {
        Arbitrary<long[]> shapes = Arbitraries.longs().between(0, 6).array(long[].class).ofMaxSize(4);
        Arbitrary<Written> one = Combinators.combine(names(), Arbitraries.of(DType.class), shapes, Arbitraries.longs())
                .as(RoundTripPropertyTest::tensor);
        return one.list().ofMaxSize(12).uniqueElements(Written::name);
    }

    private static Arbitrary<String> names() {
        return Arbitraries.strings().all().ofMaxLength(20).filter(n -> Json.isUnicode(n) && !n.equals("__metadata__"));
    }

    @Provide
    Arbitrary<Map<String, String>> metadata() {
        Arbitrary<String> text = Arbitraries.strings().all().ofMaxLength(10).filter(Json::isUnicode);
        return Arbitraries.maps(text, text).ofMaxSize(4);
    }

    private static Written tensor(String name, DType dtype, long[] dims, long seed) {
        long[] shape = dims.clone();
        if (dtype.bits() % 8 != 0) {
            // The elements must fill whole bytes.
            shape = Arrays.copyOf(dims, dims.length + 1);
            shape[dims.length] = 8;
        }
        byte[] bytes = new byte[Math.toIntExact(Header.bytes(dtype, shape))];
        new Random(seed).nextBytes(bytes);
        return new Written(name, dtype, shape, bytes);
    }

    @Property(tries = 300, shrinking = ShrinkingMode.BOUNDED)
    void readIsWritten(@ForAll("tensors") List<Written> tensors, @ForAll("metadata") Map<String, String> metadata,
            @ForAll boolean insertionOrder, @ForAll long seed) throws IOException {
        Path directory = Files.createTempDirectory("roundtrip");
        Path file = directory.resolve("a.safetensors");
        try {
            write(tensors, metadata, insertionOrder, file);
            try (Safetensors s = Safetensors.open(file); RootAllocator allocator = new RootAllocator()) {
                assertThat(s.metadata()).isEqualTo(metadata);
                assertThat(s.names()).containsExactlyInAnyOrderElementsOf(tensors.stream().map(Written::name).toList());
                if (insertionOrder && tensors.stream().allMatch(t -> t.bytes.length > 0)) {
                    assertThat(s.names()).containsExactlyElementsOf(tensors.stream().map(Written::name).toList());
                }
                for (Written t : tensors) {
                    assertThat(s.info(t.name).dtype()).isEqualTo(t.dtype);
                    assertThat(s.info(t.name).shape()).isEqualTo(t.shape);
                    assertThat(s.tensor(t.name).shape()).isEqualTo(t.shape);
                    assertThat(s.segment(t.name).toArray(ValueLayout.JAVA_BYTE)).isEqualTo(t.bytes);
                    try (ArrowBuf buffer = s.arrowBuffer(t.name, allocator)) {
                        byte[] copy = new byte[t.bytes.length];
                        buffer.getBytes(0, copy);
                        assertThat(copy).isEqualTo(t.bytes);
                    }
                }
            }
            if (!insertionOrder) {
                byte[] first = Files.readAllBytes(file);
                List<Written> shuffled = new ArrayList<>(tensors);
                Collections.shuffle(shuffled, new Random(seed));
                write(shuffled, metadata, false, file);
                assertThat(Files.readAllBytes(file)).isEqualTo(first);
            }
        } finally {
            Files.deleteIfExists(file);
            Files.delete(directory);
        }
    }

    private static void write(List<Written> tensors, Map<String, String> metadata, boolean insertionOrder, Path file)
            throws IOException {
        SafetensorsWriter writer = new SafetensorsWriter().metadata(metadata);
        if (insertionOrder) {
            writer.keepInsertionOrder();
        }
        tensors.forEach(t -> writer.add(t.name, t.dtype, MemorySegment.ofArray(t.bytes), t.shape));
        writer.write(file);
        assertThat(Files.size(file)).isEqualTo(writer.fileBytes());
    }
}
