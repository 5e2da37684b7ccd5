package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.List;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import org.junit.jupiter.api.Test;

class StopStringsTest {
    @Provide
    Arbitrary<String> text() {
        return Arbitraries.strings().withChars('a', 'b').ofMaxLength(24);
    }

    @Provide
    Arbitrary<List<String>> stops() {
        return Arbitraries.strings().withChars('a', 'b').ofMinLength(1).ofMaxLength(5).list().ofMaxSize(3);
    }

    @Provide
    Arbitrary<List<Integer>> cuts() {
        return Arbitraries.integers().between(0, 4).list().ofMinSize(1).ofMaxSize(30);
    }

    /** The definition: the first place where a stop string ends, and there the longest. */
    private static String untilStop(String text, List<String> stops) {
        for (int end = 1; end <= text.length(); end++) {
            int start = end;
            for (String stop : stops) {
                if (text.substring(0, end).endsWith(stop)) {
                    start = Math.min(start, end - stop.length());
                }
            }
            if (start < end) {
                return text.substring(0, start);
            }
        }
        return text;
    }

    @Property(tries = 500)
    void piecesChangeNothing(@ForAll("text") String text, @ForAll("stops") List<String> stops,
            @ForAll("cuts") List<Integer> cuts) {
        String expected = untilStop(text, stops);
        StopStrings matcher = new StopStrings(stops);
        StringBuilder shown = new StringBuilder();
        int at = 0;
        for (int i = 0; at < text.length(); i++) {
            int end = Math.min(text.length(), at + (i < cuts.size() ? cuts.get(i) : text.length()));
            shown.append(matcher.accept(text.substring(at, end)));
            assertThat(expected).startsWith(shown);
            at = end;
        }
        boolean stopped = matcher.stopped();
        assertThat(stopped).isEqualTo(expected.length() < text.length());
        assertThat(matcher.matched() != null).isEqualTo(stopped);
        assertThat(shown.append(matcher.finish()).toString()).isEqualTo(expected);
    }

    @Test
    void onlyWhatCouldBecomeAStopStringIsHeldBack() {
        StopStrings matcher = new StopStrings(List.of("\n###", "END"));
        assertThat(matcher.accept("one\n")).isEqualTo("one");
        assertThat(matcher.accept("two\n##")).isEqualTo("\ntwo");
        assertThat(matcher.accept("#E")).isEmpty();
        assertThat(matcher.matched()).isEqualTo("\n###");
        assertThat(matcher.accept("more")).isEmpty();
        assertThat(matcher.finish()).isEmpty();
    }

    @Test
    void anEmptyStopStringIsRefused() {
        assertThatThrownBy(() -> new StopStrings(List.of("a", ""))).hasMessageContaining("stop string");
    }
}
