package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.util.List;
import org.junit.jupiter.api.Test;

class TextsInOrderTest {
    /** The second text ends first, the first one goes on as it comes, and the third waits for both. */
    @Test
    void printsRowAfterRow() {
        StringWriter out = new StringWriter();
        TextsInOrder texts = new TextsInOrder(new PrintWriter(out), List.of("a", "b", "c"));
        texts.text(0, "1");
        texts.text(1, "2");
        texts.text(2, "3");
        assertThat(out.toString().lines()).containsExactly("[a]", "1");
        texts.ended(1);
        texts.text(0, "4");
        texts.text(2, "5");
        assertThat(out.toString().lines()).containsExactly("[a]", "14");
        texts.ended(0);
        assertThat(out.toString().lines()).containsExactly("[a]", "14", "[b]", "2", "[c]", "35");
        texts.text(2, "6");
        texts.ended(2);
        assertThat(out.toString().lines()).containsExactly("[a]", "14", "[b]", "2", "[c]", "356");
        assertThat(out.toString()).endsWith("356" + System.lineSeparator());
    }
}
