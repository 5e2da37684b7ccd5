package qlora4j.safetensors;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.catchThrowableOfType;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.arrow.memory.ArrowBuf;
import org.apache.arrow.memory.RootAllocator;
import org.apache.arrow.vector.FieldVector;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.safetensors.SafetensorsException.Kind;
import qlora4j.tensor.Tensor;

/** Model directories of one file, and of an index and shards, right and wrong. */
class SafetensorsModelTest {
    private static final String ONE = "model-00001-of-00002.safetensors";
    private static final String TWO = "model-00002-of-00002.safetensors";

    @TempDir
    Path root;
    private Path directory;
    private Path index;

    @BeforeEach
    void name() throws IOException {
        directory = Files.createDirectory(root.resolve("model"));
        index = directory.resolve("model.safetensors.index.json");
    }

    private static void write(Path file, String... names) throws IOException {
        SafetensorsWriter writer = new SafetensorsWriter().metadata("format", "pt")
                .metadata("from", file.getFileName().toString());
        for (String n : names) {
            writer.add(n, Tensor.of(new float[]{n.length(), 2}, 2));
        }
        writer.write(file);
    }

    private void shards() throws IOException {
        write(directory.resolve(ONE), "a", "bb");
        write(directory.resolve(TWO), "ccc", "dddd");
    }

    private void index(String weightMap) throws IOException {
        Files.writeString(index,
                "{\"metadata\": {\"total_size\": 32, \"x\": [{}]}, \"weight_map\": {" + weightMap + "}}");
    }

    private static String at(String tensor, String shard) {
        return "\"" + tensor + "\": \"" + shard + "\"";
    }

    private void refused(Kind kind, String tensor, String... says) {
        SafetensorsException e = catchThrowableOfType(SafetensorsException.class,
                () -> SafetensorsModel.open(directory).close());
        assertThat(e).as("no error where %s was due", kind).isNotNull();
        assertThat(e.kind()).as(e.getMessage()).isEqualTo(kind);
        assertThat(e.tensor()).isEqualTo(tensor);
        assertThat(e.getMessage()).contains(directory.toString()).contains(says);
    }

    /** An empty tensor, and one that begins in the middle of a page. */
    @Test
    void whatWasUnloadedIsReadAgain() throws IOException {
        new SafetensorsWriter().add("a", Tensor.of(new float[]{1, 2, 3}, 3)).add("empty", Tensor.of(new float[0], 0))
                .add("large", Tensor.of(new float[5000], 5000).fill(7)).write(directory.resolve("model.safetensors"));
        SafetensorsModel m = SafetensorsModel.open(directory);
        try (m) {
            Tensor large = m.tensor("large");
            for (int round = 0; round < 2; round++) {
                assertThat(large.toFloats()).containsOnly(7);
                assertThat(m.tensor("a").toFloats()).containsExactly(1, 2, 3);
                m.names().forEach(m::unload);
            }
            assertThatThrownBy(() -> m.unload("b")).isInstanceOf(IllegalArgumentException.class);
        }
        assertThatThrownBy(() -> m.unload("a")).isInstanceOf(IllegalStateException.class);
    }

    @Test
    void oneFile() throws IOException {
        write(directory.resolve("model.safetensors"), "a", "bb");
        Files.writeString(index, "not read: the single file comes first");
        for (Path start : new Path[]{directory, directory.resolve("model.safetensors")}) {
            try (SafetensorsModel m = SafetensorsModel.open(start)) {
                assertThat(m.names()).containsExactly("a", "bb");
                assertThat(m.tensor("bb").toFloats()).containsExactly(2, 2);
                assertThat(m.files()).containsExactly(directory.resolve("model.safetensors"));
            }
        }
    }

    @Test
    void anotherStem() throws IOException {
        write(directory.resolve("adapter_model.safetensors"), "lora");
        try (SafetensorsModel m = SafetensorsModel.open(directory, "adapter_model")) {
            assertThat(m.contains("lora")).isTrue();
        }
        refused(Kind.NO_MODEL, null, "model.safetensors.index.json");
    }

    @Test
    void shardsOfAnIndex() throws IOException {
        shards();
        // "dddd" is not in the index, as in files whose index was written before their last tensor.
        index(at("ccc", TWO) + "," + at("a", ONE) + "," + at("bb", ONE));
        for (Path start : new Path[]{directory, index}) {
            try (SafetensorsModel m = SafetensorsModel.open(start); RootAllocator allocator = new RootAllocator()) {
                assertThat(m.names()).containsExactly("a", "bb", "ccc", "dddd");
                assertThat(m.contains("e")).isFalse();
                assertThat(m.metadata()).containsEntry("format", "pt").containsEntry("from", ONE);
                assertThat(m.files()).containsExactly(directory.resolve(ONE), directory.resolve(TWO));
                assertThat(m.info("ccc").file()).isEqualTo(directory.resolve(TWO));
                assertThat(m.info("ccc").bytes()).isEqualTo(m.segment("ccc").byteSize());
                assertThat(m.tensor("dddd").toFloats()).containsExactly(4, 2);
                try (ArrowBuf b = m.arrowBuffer("ccc", allocator); FieldVector v = m.arrowVector("bb", allocator)) {
                    assertThat(b.getFloat(0)).isEqualTo(3);
                    assertThat(v.getObject(0)).isEqualTo(2f);
                }
                assertThatThrownBy(() -> m.tensor("e")).isInstanceOf(IllegalArgumentException.class)
                        .hasMessageContaining("'e'").hasMessageContaining(index.toString());
            }
        }
    }

    @Test
    void shardsThatAreLinksOutOfTheDirectory() throws IOException {
        // So the hub's cache keeps them.
        Path blob = root.resolve("blob");
        write(blob, "a");
        Files.createSymbolicLink(directory.resolve(ONE), Path.of("../blob"));
        index(at("a", ONE));
        try (SafetensorsModel m = SafetensorsModel.open(directory)) {
            assertThat(m.tensor("a").toFloats()).containsExactly(1, 2);
        }
    }

    @Test
    void emptyIndex() throws IOException {
        index("");
        try (SafetensorsModel m = SafetensorsModel.open(directory)) {
            assertThat(m.names()).isEmpty();
        }
    }

    @Test
    void nothingThere() {
        refused(Kind.NO_MODEL, null, "model.safetensors", "model.safetensors.index.json");
        SafetensorsException e = catchThrowableOfType(SafetensorsException.class,
                () -> SafetensorsModel.open(root.resolve("absent")).close());
        assertThat(e.kind()).isEqualTo(Kind.NO_MODEL);
        assertThat(e).hasMessageContaining("absent");
    }

    @Test
    void shardMissing() throws IOException {
        shards();
        index(at("a", ONE) + "," + at("ccc", "model-00003-of-00003.safetensors"));
        refused(Kind.SHARD_MISSING, "ccc", "model-00003-of-00003.safetensors", "model.safetensors.index.json");
    }

    @Test
    void tensorNotInItsShard() throws IOException {
        shards();
        index(at("a", ONE) + "," + at("ccc", ONE));
        refused(Kind.TENSOR_NOT_IN_SHARD, "ccc", ONE);
    }

    @Test
    void tensorInTwoShards() throws IOException {
        write(directory.resolve(ONE), "a", "bb");
        write(directory.resolve(TWO), "bb", "ccc");
        index(at("a", ONE) + "," + at("bb", ONE) + "," + at("ccc", TWO));
        refused(Kind.TENSOR_IN_TWO_SHARDS, "bb", ONE, TWO);
    }

    @Test
    void shardOutsideTheDirectory() throws IOException {
        write(root.resolve("secret.safetensors"), "a");
        for (String path : new String[]{"../secret.safetensors", "x/../../secret.safetensors",
                root.resolve("secret.safetensors").toString(), ".", "x/..", ""}) {
            index(at("a", path.replace("\\", "\\\\")));
            refused(Kind.SHARD_OUTSIDE_DIRECTORY, "a", "'" + path + "'");
        }
    }

    @Test
    void shardInASubdirectory() throws IOException {
        write(Files.createDirectory(directory.resolve("sub")).resolve(ONE), "a");
        index(at("a", "sub/" + ONE));
        try (SafetensorsModel m = SafetensorsModel.open(directory)) {
            assertThat(m.names()).containsExactly("a");
        }
    }

    @Test
    void shardMalformed() throws IOException {
        shards();
        RawFile.write(directory.resolve(TWO), "[]", 0);
        index(at("a", ONE) + "," + at("ccc", TWO));
        refused(Kind.HEADER_NOT_OBJECT, null, TWO);
    }

    @Test
    void tensorTwiceInTheIndex() throws IOException {
        shards();
        index(at("a", ONE) + "," + at("a", TWO));
        refused(Kind.DUPLICATE_KEY, "a", "twice");
    }

    @Test
    void weightMapTwice() throws IOException {
        Files.writeString(index, "{\"weight_map\": {}, \"weight_map\": {}}");
        refused(Kind.DUPLICATE_KEY, null, "weight_map");
    }

    @Test
    void fileNameNotAString() throws IOException {
        index("\"a\": 1");
        refused(Kind.INDEX_MALFORMED, "a", "not a string");
    }

    @Test
    void fileNameNoPath() throws IOException {
        index(at("a", "\\u0000"));
        refused(Kind.INDEX_MALFORMED, "a", "\\u0000");
    }

    @Test
    void indexMalformed() throws IOException {
        String[][] cases = {{"", "not a JSON object"}, {"[]", "not a JSON object"}, {"{}", "no weight_map"},
                {"{\"weight_map\": 1}", "not an object"}, {"{\"weight_map\": {}", "not JSON"}, {"{} x", "not JSON"},
                {"{}{}", "goes on"}, {"{\"weight_map\": {}, \"metadata\": " + "[".repeat(100_000), "not JSON"}};
        for (String[] c : cases) {
            Files.writeString(index, c[0]);
            refused(Kind.INDEX_MALFORMED, null, c[1], "model.safetensors.index.json");
        }
        Files.write(index, new byte[]{'{', '"', (byte) 0xc3, '"'});
        refused(Kind.INDEX_MALFORMED, null, "UTF-8");
    }
}
