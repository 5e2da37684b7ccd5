package qlora4j.train.data;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RowsTest {
    @TempDir
    Path folder;

    private List<Row> rows(String text) throws IOException {
        return rows(text.getBytes(StandardCharsets.UTF_8));
    }

    private List<Row> rows(byte[] bytes) throws IOException {
        return Rows.read(Files.write(folder.resolve("data.json"), bytes));
    }

    @Test
    void readsAlpacaRowsOfLines() throws IOException {
        List<Row> rows = Samples.rows("alpaca.jsonl");
        assertThat(rows).hasSize(6).allMatch(Row.Alpaca.class::isInstance);
        Row.Alpaca number = (Row.Alpaca) rows.get(2);
        assertThat(number.instruction()).isEqualTo("Give the next number.");
        assertThat(number.input()).isEqualTo("2, 4, 6");
        assertThat(number.output()).isEqualTo("8");
        assertThat(number.hasInput()).isTrue();
        assertThat(number.fields()).containsEntry("source", Map.of("page", 12L));
        assertThat(number.where()).as("the blank line counts").endsWith("alpaca.jsonl, line 4");
        assertThat(List.of(rows.get(0), rows.get(3), rows.get(5)))
                .as("empty, null, missing").allSatisfy(row -> assertThat(((Row.Alpaca) row).hasInput()).isFalse());
        assertThat(((Row.Alpaca) rows.get(5)).output()).isEqualTo("CAFÉ");
    }

    @Test
    void readsPromptCompletionRowsOfAnArray() throws IOException {
        List<Row> rows = Samples.rows("pairs.json");
        assertThat(rows).hasSize(2);
        Row.PromptCompletion first = (Row.PromptCompletion) rows.getFirst();
        assertThat(first.prompt()).isEqualTo("The capital of Norway is");
        assertThat(first.completion()).isEqualTo(" Oslo.");
        assertThat(rows.getLast().where()).endsWith("pairs.json, row 2");
    }

    @Test
    void acceptsByteOrderMarkBlankLinesCarriageReturnsAndALineWithoutEnd() throws IOException {
        List<Row> rows = rows(
                "\uFEFF\r\n{\"prompt\":\"a\",\"completion\":\"b\"}\r\n  \r\n{\"prompt\":\"\",\"completion\":\"d\"}");
        assertThat(rows).extracting(row -> ((Row.PromptCompletion) row).completion()).containsExactly("b", "d");
        assertThat(rows("\uFEFF [{\"prompt\":\"a\",\"completion\":\"b\"}]\n\n")).hasSize(1);
    }

    @Test
    void aLineSeparatorInAStringIsNoNewLine() throws IOException {
        assertThat(rows("{\"prompt\":\"a\u2028b\",\"completion\":\"c\u0085d\"}\n")).hasSize(1);
    }

    /** Each malformed file, and what the message says of it after the file's name. */
    @ParameterizedTest
    @CsvSource(delimiter = '|', quoteCharacter = '`',
            textBlock = """
                    `` | : is empty
                    `  \n \n` | : is empty
                    `[]` | : its array holds no rows
                    `"text"` | : has column names and no rows
                    `only words` | : begins with neither [ nor {
                    `instruction,output` | : has column names and no rows
                    `{"instruction":"a"}` | , line 1: "output" is missing; found [instruction]
                    `{"output":"a","input":"b"}` | , line 1: "instruction" is missing
                    `{"prompt":"a"}` | , line 1: "completion" is missing
                    `{"completion":"a"}` | , line 1: "prompt" is missing
                    `{"prompt":"a","output":"b"}` | , line 1: a row needs "instruction" and "output", or "prompt"
                    `{"question":"a"}` | , line 1: a row needs "instruction" and "output", or "prompt"
                    `{}` | , line 1: a row needs
                    `{"instruction":"a","output":7}` | , line 1: "output" must be a string, this is a number
                    `{"instruction":null,"output":"a"}` | , line 1: "instruction" must be a string, this is null
                    `{"instruction":"a","output":"b","input":[]}` | , line 1: "input" must be a string, this is an array
                    `{"prompt":true,"completion":"a"}` | , line 1: "prompt" must be a string, this is a boolean
                    `{"prompt":"a","completion":{"b":1}}` | , line 1: "completion" must be a string, this is an object
                    `{"instruction":"a","output":" \\n"}` | , line 1: "output" is empty
                    `{"instruction":"","output":"a"}` | , line 1: "instruction" is empty
                    `{"prompt":"a","completion":""}` | , line 1: "completion" is empty
                    `{"instruction":"a","output":"b","prompt":"c","completion":"d"}` | , line 1: holds instruction and
                    `{"prompt":"a","completion":"\\ud800"}` | , line 1: "completion" holds half a surrogate pair
                    `{"prompt":"a","prompt":"b","completion":"c"}` | not valid JSON: Duplicate field 'prompt'
                    `{"prompt":"a","completion":"b"} {}` | , line 1: something follows the object
                    `{"prompt":"a","completion":"b"}\n\n{"prompt":` | , line 3 (column 11): not valid JSON
                    `{"prompt":"a","completion":"b"}\n[1]` | , line 2: a row must be an object, this is an array
                    `[{"prompt":"a","completion":"b"},\n\n{"prompt":}]` | , row 2 (line 3, column 11): not valid JSON
                    `[{"prompt":"a","completion":"b"},"c"]` | , row 2: a row must be an object, this is a string
                    `[{"prompt":"a","completion":"b"}` | , row 2 (line 1, column 33): not valid JSON
                    `[{"prompt":"a","completion":"b"}] []` | : something follows the array of rows
                    `[{"prompt":"a","completion":"b"},{"prompt":"a"}]` | , row 2: "completion" is missing
                    """)
    void namesWhatIsWrongAndWhere(String text, String problem) {
        assertThatThrownBy(() -> rows(text)).isInstanceOf(DataException.class)
                .hasMessageStartingWith(folder.resolve("data.json").toString()).hasMessageContaining(problem);
    }

    @Test
    void namesTheLineThatIsNotUtf8() {
        byte[] bytes = "{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"prompt\":\"caf?\"".getBytes(StandardCharsets.UTF_8);
        bytes[bytes.length - 2] = (byte) 0xE9;
        assertThatThrownBy(() -> rows(bytes)).isInstanceOf(DataException.class)
                .hasMessageContaining("data.json, line 2: byte " + (bytes.length - 2) + " of the file is not UTF-8");
    }

    @Test
    void namesAFileThatIsNone() {
        assertThatThrownBy(() -> Rows.read(folder.resolve("absent.jsonl"))).isInstanceOf(DataException.class)
                .hasMessageContaining("absent.jsonl: there is no such file");
        assertThatThrownBy(() -> Rows.read(folder)).isInstanceOf(DataException.class)
                .hasMessageContaining(folder + ": is no file");
    }
}
