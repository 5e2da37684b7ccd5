package qlora4j.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.zip.GZIPOutputStream;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** CSV, Parquet, gzip, and directories of them. */
class DataFilesTest {
    @TempDir
    Path folder;

    private Path file(String name, String text) throws IOException {
        Path file = folder.resolve(name);
        Files.createDirectories(file.getParent());
        return Files.writeString(file, text);
    }

    private static DataSource.Loaded load(String split, String config, Columns columns, Path... paths)
            throws IOException {
        return new DataSource(List.of(paths), config, split, "--dataset-train-split", columns).read();
    }

    private static DataSource.Loaded load(String split, Path... paths) throws IOException {
        return load(split, null, Columns.AS_NAMED, paths);
    }

    private static List<String> completions(DataSource.Loaded loaded) {
        return loaded.rows().stream().map(row -> ((Row.PromptCompletion) row).completion()).toList();
    }

    @Test
    void readsCsvAsItIsQuoted() throws IOException {
        List<Row> rows = Rows.read(file("x", "\uFEFF,instruction,input,output\r\n"
                + "0,\"Say \"\"hi\"\", now.\",,\"two\nlines\"\r\n\r\n1, b ,\"a,b\",\"\u00e9;\t\"\r\n"));
        assertThat(rows).hasSize(2);
        Row.Alpaca first = (Row.Alpaca) rows.getFirst();
        assertThat(first.instruction()).isEqualTo("Say \"hi\", now.");
        assertThat(first.hasInput()).isFalse();
        assertThat(first.output()).isEqualTo("two\nlines");
        assertThat(first.fields()).containsEntry("Unnamed: 0", "0");
        Row.Alpaca second = (Row.Alpaca) rows.getLast();
        assertThat(second.instruction()).isEqualTo(" b ");
        assertThat(second.input()).isEqualTo("a,b");
        assertThat(second.output()).isEqualTo("\u00e9;\t");
        assertThat(second.where()).isEqualTo(folder.resolve("x") + ", row 2");
    }

    @ParameterizedTest
    @ValueSource(strings = {"prompt\tcompletion\na,b;c\td", "prompt;completion\n\"a,b;c\";d",
            "\"prompt\",\"completion\"\n\"a,b;c\",\"d\""})
    void findsTheSeparator(String text) throws IOException {
        Row.PromptCompletion row = (Row.PromptCompletion) Rows.read(file("x.csv", text)).getFirst();
        assertThat(row.prompt()).isEqualTo("a,b;c");
        assertThat(row.completion()).isEqualTo("d");
    }

    @Test
    void aCsvOfTextsAndOneOfConversations() throws IOException {
        assertThat(((Row.Text) Rows.read(file("x.csv", "text\n\"a, b\"\nc\n")).getLast()).text()).isEqualTo("c");
        Row.Conversation talk = (Row.Conversation) Rows.read(file("y.csv",
                "id,messages\n1,\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}]\"\n")).getFirst();
        assertThat(talk.chat().messages()).containsExactly(Map.of("role", "user", "content", "a"));
    }

    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '`',
            textBlock = """
                    `prompt,completion\na,b,c` | row 1: has 3 values, the file has 2 columns
                    `prompt,completion\na,b\nc` | row 2: has 1 values
                    `prompt,completion\n"a,b` | row 1
                    `prompt,completion\n"a"x,b` | row 1
                    `prompt,prompt\na,b` | two columns are called "prompt"
                    `prompt,completion\na,` | row 1: "completion" is empty
                    `question,answer\na,b` | row 1: a row needs
                    `id,messages\n1,[{]` | "messages" is text that is not valid JSON
                    """)
    void namesWhatIsWrongInCsv(String text, String problem) throws IOException {
        Path file = file("bad.csv", text);
        assertThatThrownBy(() -> Rows.read(file)).isInstanceOf(DataException.class)
                .hasMessageStartingWith(file.toString()).hasMessageContaining(problem);
    }

    @Test
    void readsParquetWithNestedColumns() throws IOException {
        List<Row> rows = Samples.rows("messages.parquet");
        assertThat(rows).hasSize(2).allMatch(Row.Conversation.class::isInstance);
        Row.Conversation second = (Row.Conversation) rows.getLast();
        assertThat(second.where()).endsWith("messages.parquet, row 2");
        assertThat(second.chat().messages()).as("columns that are null are no fields")
                .containsExactly(Map.of("role", "user", "content", "2+2?"),
                        Map.of("role", "assistant", "content", "4"), Map.of("role", "user", "content", "+1?"),
                        Map.of("role", "assistant", "content", "5"));
        assertThat(second.fields()).containsEntry("id", 2L).containsEntry("score", null);
        Row.Alpaca first = (Row.Alpaca) Samples.rows("alpaca.parquet").getFirst();
        assertThat(List.of(first.instruction(), first.input(), first.output())).containsExactly("Add.", "1 and 2", "3");
        assertThat(((Row.Alpaca) Samples.rows("alpaca.parquet").getLast()).hasInput()).isFalse();
    }

    @Test
    void namesParquetThatItCannotRead() throws IOException {
        assertThatThrownBy(() -> Samples.rows("brotli.parquet")).isInstanceOf(DataException.class)
                .hasMessageContaining("brotli.parquet: the column \"").hasMessageContaining("BROTLI")
                .hasMessageContaining("SNAPPY");
        byte[] whole = Files.readAllBytes(Samples.file("messages.parquet"));
        for (int length : new int[]{4, 12, whole.length / 2, whole.length - 1}) {
            Path cut = Files.write(folder.resolve("cut.parquet"), Arrays.copyOf(whole, length));
            assertThatThrownBy(() -> Rows.read(cut)).as("%d bytes", length).isInstanceOf(DataException.class)
                    .hasMessageContaining("cut.parquet").hasMessageContaining("not readable as Parquet");
        }
        assertThatThrownBy(() -> Rows.read(file("x", "PAREabc"))).hasMessageContaining("encrypted");
        assertThatThrownBy(() -> Rows.read(file("x", "ARROW1\0\0"))).hasMessageContaining("Arrow");
    }

    /** Damage anywhere in the file is an error that names it, or leaves the rows as they were. */
    @Test
    void damagedParquetNeverEndsInAnotherError() throws IOException {
        byte[] whole = Files.readAllBytes(Samples.file("messages.parquet"));
        for (int at = 4; at < whole.length; at += 7) {
            byte[] damaged = whole.clone();
            damaged[at] ^= 0x55;
            Path file = Files.write(folder.resolve("damaged.parquet"), damaged);
            try {
                assertThat(Rows.read(file)).isNotEmpty();
            } catch (DataException e) {
                assertThat(e).hasMessageContaining("damaged.parquet");
            }
        }
    }

    @Test
    void readsGzip() throws IOException {
        Path file = folder.resolve("x.jsonl.gz");
        try (OutputStream out = new GZIPOutputStream(Files.newOutputStream(file))) {
            out.write("{\"prompt\":\"a\",\"completion\":\"b\"}\n".getBytes(StandardCharsets.UTF_8));
        }
        DataSource.Loaded loaded = load("train", file);
        assertThat(completions(loaded)).containsExactly("b");
        assertThat(loaded.taken()).containsExactly(file + ": JSON lines, gzip, 1 rows of prompt and completion");
        byte[] bytes = Files.readAllBytes(file);
        Files.write(file, Arrays.copyOf(bytes, bytes.length - 9));
        assertThatThrownBy(() -> load("train", file)).isInstanceOf(DataException.class)
                .hasMessageContaining("not valid gzip");
    }

    private static String rows(String... completions) {
        StringBuilder text = new StringBuilder();
        for (String c : completions) {
            text.append("{\"prompt\":\"p\",\"completion\":\"").append(c).append("\"}\n");
        }
        return text.toString();
    }

    @Test
    void takesASplitOfADirectory() throws IOException {
        file("d/README.md", "# data");
        file("d/dataset_infos.json", "{}");
        file("d/.cache/train.jsonl", rows("hidden"));
        file("d/data/train-00000-of-00002.jsonl", rows("a", "b"));
        file("d/data/train-00001-of-00002.jsonl", rows("c"));
        file("d/data/test_sft-00000-of-00001.jsonl", rows("t"));
        file("d/data/my.validation.json", rows("v"));
        Path d = folder.resolve("d");
        DataSource.Loaded loaded = load("train", d);
        assertThat(completions(loaded)).containsExactly("a", "b", "c");
        assertThat(loaded.taken()).containsExactly(d
                + ", split train (of test_sft, train, validation) in 2 files: JSON lines, 3 rows of prompt and completion");
        assertThat(completions(load("test_sft", d))).containsExactly("t");
        assertThat(completions(load("validation + train[1:]", d))).containsExactly("v", "b", "c");
        assertThatThrownBy(() -> load("test", d)).hasMessageContaining("has the splits [test_sft, train, validation]");
        Files.delete(d.resolve("data/train-00000-of-00002.jsonl"));
        assertThatThrownBy(() -> load("train", d)).hasMessageContaining("shard 00000 of 00002 is missing");
    }

    @Test
    void takesAConfigurationOfADirectory() throws IOException {
        file("d/de/train.jsonl", rows("ja"));
        file("d/en/train/part.jsonl", rows("yes"));
        Path d = folder.resolve("d");
        assertThatThrownBy(() -> load("train", d)).hasMessageContaining("several configurations, [de, en]");
        assertThat(completions(load("train", "en", Columns.AS_NAMED, d))).containsExactly("yes");
        assertThatThrownBy(() -> load("train", "fr", Columns.AS_NAMED, d))
                .hasMessageContaining("--dataset-config fr").hasMessageContaining("[de, en]");
        file("d/all.jsonl", rows("x"));
        DataSource.Loaded loaded = load("train", d);
        assertThat(completions(loaded)).containsExactly("x");
        assertThat(loaded.taken().getFirst()).endsWith("; not taken: the folders [de, en], for which there is"
                + " --dataset-config");
        file("e/state.json", "{}");
        file("e/data-00000-of-00001.arrow", "x");
        assertThatThrownBy(() -> load("train", folder.resolve("e"))).hasMessageContaining("holds no data files")
                .hasMessageContaining("to_parquet");
    }

    @ParameterizedTest
    @CsvSource(delimiter = ';', textBlock = """
            train[:2]; 01
            train[-2:]; 89
            train[2:4]; 23
            train[90%:]; 9
            train[:-8]; 01
            train[8:99]; 89
            train[:10%]+train[9:]; 09
            """)
    void slicesAsTheLibraryDatasets(String split, String expected) throws IOException {
        Path file = file("x.jsonl", rows("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"));
        assertThat(String.join("", completions(load(split, file)))).isEqualTo(expected);
    }

    @Test
    void aSliceThatIsNoneOrEmptyIsNamed() throws IOException {
        Path file = file("x.jsonl", rows("0"));
        assertThatThrownBy(() -> load("train[a:]", file)).hasMessageContaining("--dataset-train-split train[a:]");
        assertThatThrownBy(() -> load("train[1:]", file)).hasMessageContaining("holds no rows");
        assertThatThrownBy(() -> load("test", file)).hasMessageContaining("is one file");
        assertThatThrownBy(() -> load("train", "en", Columns.AS_NAMED, file)).hasMessageContaining("is no directory");
    }

    @Test
    void readsSeveralFilesOneAfterTheOther() throws IOException {
        DataSource.Loaded loaded = load("train", file("a.json", "[" + rows("1").strip() + "]"), file("b.csv",
                "prompt,completion\np,2\n"));
        assertThat(completions(loaded)).containsExactly("1", "2");
        assertThat(loaded.taken()).hasSize(2).first().asString()
                .endsWith("a.json: JSON, 1 rows of prompt and completion");
    }

    @Test
    void columnsMayBeCalledOtherwise() throws IOException {
        Path file = file("x.jsonl", "{\"context\":\"c\",\"question\":\"q\",\"response\":\"r\",\"text\":\"t\"}");
        Columns columns =
                new Columns(Map.of("instruction", "question", "input", "context", "output", "response"), null);
        Row.Alpaca row = (Row.Alpaca) load("train", null, columns, file).rows().getFirst();
        assertThat(List.of(row.instruction(), row.input(), row.output())).containsExactly("q", "c", "r");
        assertThat(row.fields()).containsOnlyKeys("text", "instruction", "input", "output");
        Row.Text text = (Row.Text) load("train", null, new Columns(Map.of(), "response"), file).rows().getFirst();
        assertThat(text.text()).isEqualTo("r");
        assertThatThrownBy(() -> load("train", null, new Columns(Map.of("output", "answer"), null), file))
                .hasMessageContaining("x.jsonl, line 1: there is no column \"answer\", which --column-mapping");
        assertThatThrownBy(() -> new Columns(Map.of("answer", "x"), null)).isInstanceOf(DataException.class)
                .hasMessageContaining("\"answer\" is no name that rows have");
        assertThatThrownBy(() -> load("train", null, new Columns(Map.of(), "body"), file))
                .hasMessageContaining("there is no column \"body\", which --dataset-text-field");
    }

    @Test
    void deepAndHugeJsonIsRefusedWithItsLine() throws IOException {
        String deep = "{\"prompt\":\"p\",\"completion\":\"c\",\"x\":" + "[".repeat(5000) + "]".repeat(5000) + "}";
        Path file = file("deep.jsonl", rows("a") + deep);
        assertThatThrownBy(() -> Rows.read(file)).isInstanceOf(DataException.class)
                .hasMessageContaining("deep.jsonl, line 2").hasMessageContaining("nesting depth");
        Path huge = file("huge.jsonl", rows("a".repeat(21_000_000)));
        assertThatThrownBy(() -> Rows.read(huge)).isInstanceOf(DataException.class)
                .hasMessageContaining("huge.jsonl, line 1").hasMessageContaining("20000000");
        assertThat(Rows.read(file("long.jsonl", rows("a".repeat(3_000_000))))).hasSize(1);
    }

    /** Whatever stands in a file: rows, or an error that names it, and no other. */
    @Property(tries = 500)
    void anyTextGivesRowsOrANamedError(@ForAll("pieces") List<String> pieces) throws IOException {
        Path file = Files.createTempFile("any", ".txt");
        try {
            Files.writeString(file, String.join("", pieces));
            assertThat(Rows.read(file)).isNotEmpty();
        } catch (DataException e) {
            assertThat(e).hasMessageContaining(file.getFileName().toString());
        } finally {
            Files.delete(file);
        }
    }

    @Provide
    Arbitrary<List<String>> pieces() {
        return Arbitraries.of("{", "}", "[", "]", "\"", ",", ":", "\n", "\r\n", "\t", ";", " ", "null", "7", "\\",
                "\u0000",
                "\uFEFF", "\uD83D\uDE00", "\"prompt\":\"a\",", "\"completion\":\"b\"", "prompt,completion\n", "a,b\n",
                "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}\n", "{\"messages\":", "{\"from\":\"human\",",
                "\"text\":\"t\"", "text\n", "PAR1", "\"tools\":\"[\"").list().ofMinSize(1).ofMaxSize(14);
    }
}
