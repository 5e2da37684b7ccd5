package qlora4j.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.hub.HubException.Kind;

/** Servers and caches that mean harm: nothing is written outside, nothing damaged is kept, no token is given away. */
class HubAttacksTest extends HubFixture {
    @Test
    void aWrongChecksumNeverEntersTheCache() throws IOException {
        for (String name : List.of("config.json", WEIGHTS)) {
            server.fault((e, content) -> {
                if (!isGet(e, name)) {
                    return false;
                }
                byte[] wrong = content.clone();
                wrong[wrong.length / 2] ^= 1;
                FakeHub.send(e, 200, wrong);
                return true;
            });
            fails(Kind.WRONG_CHECKSUM, name);
            assertThat(folder().resolve("snapshots").resolve(FakeHub.COMMIT).resolve(name)).doesNotExist();
            assertThat(hub().cached(FakeHub.REPO)).isEmpty();
        }
        server.fault((_, _) -> false);
        complete(pull());
    }

    @Test
    void theTokenGoesToTheHubAndNowhereElse() throws IOException {
        try (FakeHub elsewhere = new FakeHub()) {
            elsewhere.fault((e, _) -> {
                FakeHub.sendFile(e, WEIGHTS, server.files.get(WEIGHTS));
                return true;
            });
            server.fault((e, content) -> {
                if (content == null || !e.getRequestURI().getPath().endsWith(WEIGHTS)) {
                    return false;
                }
                e.getResponseHeaders().set("X-Linked-Etag", '"' + FakeHub.etag(WEIGHTS, content) + '"');
                e.getResponseHeaders().set("X-Linked-Size", String.valueOf(content.length));
                e.getResponseHeaders().set("Location", elsewhere.endpoint() + "/signed?key=1");
                e.sendResponseHeaders(302, -1);
                return true;
            });
            HubSettings s = server.settings(cache);
            complete(hub(s.withToken("hf_secret")).pull(FakeHub.REPO,
                    List.of(), SILENT));
            assertThat(server.requests).isNotEmpty().allMatch(r -> r.endsWith(" Bearer hf_secret"));
            assertThat(elsewhere.requests).hasSize(1).allMatch(r -> r.equals("GET /signed null null"));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"file:///etc/passwd", "ftp://127.0.0.1/x", "http://user@127.0.0.1/x", "http:///x", "::", "",
            "/owner/name/loop"})
    void badRedirectsAreNotFollowed(String location) {
        server.fault((e, _) -> {
            e.getResponseHeaders().set("Location", location);
            e.sendResponseHeaders(307, -1);
            return true;
        });
        fails(Kind.BAD_ANSWER, "redirect");
    }

    @ParameterizedTest
    @ValueSource(strings = {"../evil", "../../../etc/passwd", "/etc/passwd", "a/../../b", "a//b", "./a", "C:\\evil",
            "C:evil", "a\\..\\..\\b", "nul\0byte", "NUL", "con.safetensors", "trailing.", "a/", "stream:ads",
            "line\nbreak",
            "\u202egnp"})
    void hostileNamesAreRefused(String name) throws IOException {
        server.alsoListed.add(name.replace("\n", "\\n"));
        assertThatThrownBy(() -> hub().pull(FakeHub.REPO, List.of("*"), SILENT)).isInstanceOf(HubException.class)
                .extracting(e -> ((HubException) e).kind()).isEqualTo(Kind.UNSAFE_NAME);
        assertThat(SafeNames.isSafe(name)).isFalse();
        // Who does not ask for it is not bothered by it.
        complete(pull());
        server.files.remove(WEIGHTS);
        server.files.put("model.safetensors.index.json", ("{\"weight_map\": {\"a\": \"" + name.replace("\\", "\\\\")
                .replace("\0", "\\u0000").replace("\n", "\\n") + "\"}}").getBytes(StandardCharsets.UTF_8));
        assertThatThrownBy(() -> hub(server.settings(cache.resolve("second"))).pull(FakeHub.REPO, List.of(), SILENT))
                .isInstanceOf(HubException.class).extracting(e -> ((HubException) e).kind())
                .isEqualTo(Kind.UNSAFE_NAME);
        try (Stream<Path> files = Files.walk(cache)) {
            assertThat(files).noneMatch(f -> f.getFileName().toString().contains("evil"));
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"\"../../evil\"", "\"a/b\"", "\"..\"", "\"\"", "\".hidden\"", "\"a:b\""})
    void hostileChecksumsAreRefused(String etag) {
        server.fault((e, content) -> {
            if (content == null || !e.getRequestMethod().equals("HEAD")) {
                return false;
            }
            e.getResponseHeaders().set("ETag", etag);
            e.sendResponseHeaders(200, -1);
            return true;
        });
        assertThatThrownBy(this::pull).isInstanceOf(HubException.class).hasMessageContaining("checksum");
    }

    @Test
    void linksInTheCacheLeadNowhereElse(@TempDir Path outside) throws IOException {
        Files.createDirectories(folder());
        Files.createSymbolicLink(folder().resolve("snapshots"), outside);
        fails(Kind.UNSAFE_NAME, "leads out of");
        Files.delete(folder().resolve("snapshots"));
        Path victim = Files.writeString(outside.resolve("victim"), "untouched");
        Files.delete(leave(new byte[0]));
        Files.createSymbolicLink(leftover(), victim);
        fails(Kind.UNSAFE_NAME, "no plain file");
        assertThat(victim).hasContent("untouched");
    }
}
