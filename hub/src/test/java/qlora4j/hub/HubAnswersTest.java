package qlora4j.hub;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.time.Duration;
import java.time.ZoneOffset;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.hub.HubException.Kind;

/** Servers that refuse, delay or make no sense. */
class HubAnswersTest extends HubFixture {
    @Test
    void wrongLengthsAreNoticed() {
        server.fault((e, content) -> {
            if (!isGet(e, WEIGHTS)) {
                return false;
            }
            FakeHub.send(e, 200, java.util.Arrays.copyOf(content, content.length + 1));
            return true;
        });
        fails(Kind.WRONG_LENGTH, "more than the 300000 bytes");
        server.fault((e, content) -> {
            if (!isGet(e, WEIGHTS)) {
                return false;
            }
            FakeHub.send(e, 200, java.util.Arrays.copyOf(content, 10));
            return true;
        });
        fails(Kind.WRONG_LENGTH, "of 300000 bytes");
        server.fault((e, _) -> {
            if (!isGet(e, WEIGHTS)) {
                return false;
            }
            e.getResponseHeaders().set("Content-Range", "bytes 0-9/77");
            FakeHub.send(e, 206, new byte[10]);
            return true;
        });
        fails(Kind.WRONG_LENGTH, "the server 77");
    }

    @Test
    void aServerThatAsksToWaitIsWaitedFor() throws IOException {
        AtomicInteger times = new AtomicInteger();
        server.fault((e, _) -> {
            int n = times.incrementAndGet();
            if (n == 1) {
                e.getResponseHeaders().set("Retry-After", "7");
            } else if (n == 2) {
                e.getResponseHeaders().set("Retry-After", DateTimeFormatter.RFC_1123_DATE_TIME.format(ZonedDateTime.now(
                        ZoneOffset.UTC).plusSeconds(100)));
            }
            if (n <= 4) {
                FakeHub.error(e, n <= 2 ? 429 : 503, null);
            }
            return n <= 4;
        });
        complete(pull());
        assertThat(waits.get(0)).isEqualTo(Duration.ofSeconds(7));
        assertThat(waits.get(1)).isBetween(Duration.ofSeconds(90), Duration.ofSeconds(100));
        assertThat(waits.get(2)).isEqualTo(Duration.ofSeconds(4));
    }

    @Test
    void aServerThatAsksForTooLongIsNot() {
        server.fault((e, _) -> {
            e.getResponseHeaders().set("Retry-After", "3600");
            FakeHub.error(e, 429, null);
            return true;
        });
        fails(Kind.RATE_LIMITED, "3600 seconds");
        assertThat(waits).isEmpty();
    }

    @ParameterizedTest
    @CsvSource({"401, , UNAUTHORIZED, HF_TOKEN", "401, RepoNotFound, NOT_FOUND, owner/name",
            "403, , GATED, accept the terms", "401, GatedRepo, GATED, HF_TOKEN", "404, , NOT_FOUND, no such model",
            "404, RevisionNotFound, NO_REVISION, main", "500, , UNREACHABLE, answered 500 5 times",
            "503, , UNREACHABLE, 503", "429, , RATE_LIMITED, HF_TOKEN", "418, , BAD_ANSWER, 418"})
    void errorsSayWhatToDo(int code, String error, Kind kind, String message) {
        server.fault((e, _) -> {
            FakeHub.error(e, code, error);
            return true;
        });
        fails(kind, message);
    }

    @Test
    void noServerIsSaid() {
        server.close();
        fails(Kind.UNREACHABLE, "cannot be reached");
        assertThat(waits).hasSize(4);
    }

    @ParameterizedTest
    @ValueSource(strings = {"not json", "[]", "{}", "{\"sha\": \"../../evil\", \"siblings\": []}",
            "{\"sha\": \"" + FakeHub.COMMIT + "\", \"siblings\": [{}]}"})
    void anAnswerThatMakesNoSense(String listing) {
        server.listing = listing;
        fails(Kind.BAD_ANSWER, "owner/name");
    }

    @Test
    void anotherCommitIsNotTaken() {
        server.fault((e, content) -> {
            if (content == null) {
                return false;
            }
            e.getResponseHeaders().set("X-Repo-Commit", "f".repeat(40));
            e.getResponseHeaders().set("ETag", "\"abc\"");
            e.sendResponseHeaders(200, -1);
            return true;
        });
        fails(Kind.BAD_ANSWER, "ffff");
    }

    @Test
    void whatIsNoModelIsSaid() throws IOException {
        server.files.remove(WEIGHTS);
        fails(Kind.NO_FILE, "PyTorch");
        server.files.put("q/model.gguf", FakeHub.content(9));
        fails(Kind.NO_FILE, "--include '*.gguf'");
        assertThat(hub().pull(FakeHub.REPO, List.of("*.gguf"), SILENT).resolve("q/model.gguf")).exists();
    }
}
