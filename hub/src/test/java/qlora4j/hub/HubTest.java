package qlora4j.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.sun.net.httpserver.HttpExchange;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.time.ZoneOffset;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.hub.HubException.Kind;

/** Downloads from a server that plays the hub, well and badly. No test leaves the loopback, none waits. */
@Timeout(60)
class HubTest {
    private static final String WEIGHTS = "model.safetensors";
    private static final String GET_WEIGHTS = "GET /owner/name/resolve/" + FakeHub.COMMIT + "/" + WEIGHTS;
    private static final Hub.Listener SILENT = new Hub.Listener() {
    };

    @TempDir
    private Path cache;
    private FakeHub server;
    private final List<Duration> waits = new ArrayList<>();

    @BeforeEach
    void start() throws IOException {
        server = FakeHub.withModel();
    }

    @AfterEach
    void stop() {
        server.close();
    }

    private Hub hub(HubSettings settings) {
        return new Hub(settings, time -> {
            synchronized (waits) {
                waits.add(time);
            }
        });
    }

    private Hub hub() {
        return hub(server.settings(cache));
    }

    private Path pull() throws IOException {
        return hub().pull(FakeHub.REPO, List.of(), SILENT);
    }

    private void fails(Kind kind, String message) {
        assertThatThrownBy(this::pull).isInstanceOf(HubException.class).hasMessageContaining(message)
                .extracting(e -> ((HubException) e).kind()).isEqualTo(kind);
    }

    private static boolean isGet(HttpExchange e, String name) {
        return e.getRequestMethod().equals("GET") && e.getRequestURI().getPath().endsWith("/" + name);
    }

    private Path folder() {
        return cache.resolve("models--owner--name");
    }

    private void complete(Path snapshot) throws IOException {
        assertThat(snapshot).isEqualTo(folder().resolve("snapshots").resolve(FakeHub.COMMIT));
        assertThat(snapshot.resolve(WEIGHTS)).hasBinaryContent(server.files.get(WEIGHTS));
        try (Stream<Path> blobs = Files.list(folder().resolve("blobs"))) {
            assertThat(blobs.map(b -> b.getFileName().toString()))
                    .allMatch(n -> n.matches("[0-9a-f]{40}|[0-9a-f]{64}"));
        }
    }

    @Test
    void bringsWhatAModelNeedsInThePlacesThatPythonKnows() throws IOException {
        Path snapshot = pull();
        complete(snapshot);
        try (Stream<Path> files = Files.list(snapshot)) {
            assertThat(files.map(f -> f.getFileName().toString())).containsExactlyInAnyOrder("config.json",
                    "tokenizer.json", "chat_template.jinja", WEIGHTS);
        }
        assertThat(folder().resolve("refs/main")).hasContent(FakeHub.COMMIT);
        String etag = FakeHub.etag(WEIGHTS, server.files.get(WEIGHTS));
        assertThat(Files.readSymbolicLink(snapshot.resolve(WEIGHTS))).isEqualTo(Path.of("../../blobs", etag));
        assertThat(cache.resolve(".locks/models--owner--name").resolve(etag + ".lock")).exists();
        long before = server.count("GET /owner");
        assertThat(pull()).isEqualTo(snapshot);
        assertThat(server.count("GET /owner")).isEqualTo(before).isEqualTo(4);
        int all = server.requests.size();
        assertThat(hub().cached(FakeHub.REPO)).contains(snapshot);
        assertThat(hub().cached(new RepoId("owner/name", FakeHub.COMMIT))).contains(snapshot);
        assertThat(hub().cached(new RepoId("owner/name", "dev"))).isEmpty();
        assertThat(hub().cached(RepoId.parse("owner/other"))).isEmpty();
        assertThat(server.requests).hasSize(all);
    }

    @Test
    void aModelInShardsAndAnAdapter() throws IOException {
        server.files.remove(WEIGHTS);
        server.files.put("model-1.safetensors", FakeHub.content(10));
        server.files.put("model-2.safetensors", FakeHub.content(20));
        server.files.put("other.safetensors", FakeHub.content(30));
        server.files.put("model.safetensors.index.json", """
                {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}"""
                .getBytes(StandardCharsets.UTF_8));
        Path snapshot = pull();
        assertThat(snapshot.resolve("model-1.safetensors")).exists();
        assertThat(snapshot.resolve("model-2.safetensors")).exists();
        assertThat(snapshot.resolve("other.safetensors")).doesNotExist();
        assertThat(hub().cached(FakeHub.REPO)).contains(snapshot);
        Files.delete(snapshot.resolve("model-2.safetensors").toRealPath());
        assertThat(hub().cached(FakeHub.REPO)).isEmpty();
        assertThat(pull().resolve("model-2.safetensors")).hasBinaryContent(FakeHub.content(20));
        server.files.clear();
        server.files.put("adapter_config.json", "{}".getBytes(StandardCharsets.UTF_8));
        server.files.put("adapter_model.safetensors", FakeHub.content(7));
        Path adapter = hub(server.settings(cache.resolve("second"))).pull(FakeHub.REPO, List.of(), SILENT);
        assertThat(adapter.resolve("adapter_model.safetensors")).exists();
    }

    @Test
    void aBrokenConnectionIsContinued() throws IOException {
        AtomicInteger times = new AtomicInteger();
        server.fault((e, content) -> {
            int from = from(e);
            if (!isGet(e, WEIGHTS) || times.incrementAndGet() > 3) {
                return false;
            }
            FakeHub.cut(e, content, from, 70_000);
            return true;
        });
        complete(pull());
        // How much of what was sent before a connection broke arrives is up to the system.
        assertThat(server.requests.stream().filter(r -> r.startsWith(GET_WEIGHTS + " bytes=")).distinct().count())
                .isGreaterThanOrEqualTo(1);
        assertThat(waits).isNotEmpty();
    }

    private static int from(HttpExchange e) {
        String range = e.getRequestHeaders().getFirst("Range");
        return range == null ? 0 : Integer.parseInt(range.replaceAll("\\D", ""));
    }

    @Test
    void aLaterRunGoesOnWhereAnEarlierOneEnded() throws IOException {
        server.fault((e, content) -> {
            if (!isGet(e, WEIGHTS)) {
                return false;
            }
            FakeHub.cut(e, content, from(e), from(e) == 0 ? 100_000 : 0);
            return true;
        });
        // A connection that ends before its headers have arrived is no answer at all.
        assertThatThrownBy(this::pull).isInstanceOf(HubException.class).hasMessageContaining(WEIGHTS)
                .extracting(e -> ((HubException) e).kind()).isIn(Kind.WRONG_LENGTH, Kind.UNREACHABLE);
        long there = Files.size(leftover());
        assertThat(there).isBetween(1L, 100_000L);
        assertThat(hub().cached(FakeHub.REPO)).isEmpty();
        server.fault((_, _) -> false);
        server.requests.clear();
        complete(pull());
        assertThat(server.requests).anyMatch(r -> r.startsWith(GET_WEIGHTS + " bytes=" + there + "-"));
    }

    private Path leftover() {
        return folder().resolve("blobs")
                .resolve(FakeHub.etag(WEIGHTS, server.files.get(WEIGHTS)) + ".qlora.incomplete");
    }

    private Path leave(byte[] bytes) throws IOException {
        Files.createDirectories(folder().resolve("blobs"));
        return Files.write(leftover(), bytes);
    }

    @Test
    void aServerWithoutRangesBeginsAnew() throws IOException {
        leave(java.util.Arrays.copyOf(server.files.get(WEIGHTS), 1000));
        server.fault((e, content) -> {
            if (!isGet(e, WEIGHTS)) {
                return false;
            }
            FakeHub.send(e, 200, content);
            return true;
        });
        complete(pull());
    }

    @Test
    void aRefusedRangeBeginsAnew() throws IOException {
        leave(java.util.Arrays.copyOf(server.files.get(WEIGHTS), 1000));
        server.fault((e, _) -> {
            if (!isGet(e, WEIGHTS) || from(e) == 0) {
                return false;
            }
            FakeHub.send(e, 416, new byte[0]);
            return true;
        });
        complete(pull());
    }

    @ParameterizedTest
    @ValueSource(ints = {1000, 300_000, 400_000})
    void whatAnEarlierRunDamagedIsDownloadedAgain(int n) throws IOException {
        leave(new byte[n]);
        complete(pull());
    }

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
    void offlineAsksNobody() throws IOException {
        HubSettings s = server.settings(cache);
        Hub offline = hub(s.withOffline(true));
        assertThatThrownBy(() -> offline.pull(FakeHub.REPO, List.of(), SILENT)).isInstanceOf(HubException.class)
                .hasMessageContaining("HF_HUB_OFFLINE");
        assertThat(server.requests).isEmpty();
        Path snapshot = pull();
        int all = server.requests.size();
        assertThat(offline.pull(FakeHub.REPO, List.of(), SILENT)).isEqualTo(snapshot);
        assertThat(server.requests).hasSize(all);
    }

    @Test
    void whatIsNoModelIsSaid() throws IOException {
        server.files.remove(WEIGHTS);
        fails(Kind.NO_FILE, "PyTorch");
        server.files.put("q/model.gguf", FakeHub.content(9));
        fails(Kind.NO_FILE, "--include '*.gguf'");
        assertThat(hub().pull(FakeHub.REPO, List.of("*.gguf"), SILENT).resolve("q/model.gguf")).exists();
    }

    /** Where the server does not say how long a file is, git's hash is still compared. */
    @Test
    void lengthsMayBeUnknown() throws IOException {
        AtomicInteger times = new AtomicInteger();
        server.fault((e, content) -> {
            if (content == null) {
                return false;
            }
            String path = e.getRequestURI().getPath();
            e.getResponseHeaders().set("ETag", '"' + FakeHub.etag(path, content) + '"');
            e.sendResponseHeaders(200, e.getRequestMethod().equals("HEAD") ? -1 : 0);
            if (!e.getRequestMethod().equals("HEAD")) {
                byte[] sent = content.clone();
                if (path.endsWith("config.json") && times.getAndIncrement() == 0) {
                    sent[0] ^= 1;
                }
                e.getResponseBody().write(sent);
            }
            return true;
        });
        fails(Kind.WRONG_CHECKSUM, "config.json");
        complete(pull());
    }

    @Test
    void aProxyIsAsked() throws IOException {
        HubSettings s = HubSettings.of(java.util.Map.of("HF_ENDPOINT", "http://hub.invalid", "HTTP_PROXY",
                server.endpoint().toString(), "NO_PROXY", "example.org", "HF_HUB_CACHE", cache.toString()), cache);
        complete(hub(s).pull(FakeHub.REPO, List.of(), SILENT));
    }

    @Test
    void twoAtOnceDownloadOnce() throws Exception {
        try (ExecutorService threads = Executors.newFixedThreadPool(4)) {
            List<Future<Path>> all = threads.invokeAll(java.util.Collections.nCopies(4, (Callable<Path>) this::pull));
            for (Future<Path> f : all) {
                complete(f.get());
            }
        }
        assertThat(server.count(GET_WEIGHTS)).isEqualTo(1);
    }

    @Test
    void aBodyThatStopsIsGivenUpAndContinued() throws IOException {
        AtomicInteger times = new AtomicInteger();
        server.fault((e, content) -> {
            if (!isGet(e, WEIGHTS) || times.incrementAndGet() > 1) {
                return false;
            }
            FakeHub.cut(e, content, 0, 50_000);
            try {
                Thread.sleep(3000);
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
            return true;
        });
        HubSettings s = server.settings(cache);
        long start = System.nanoTime();
        complete(hub(HubSettings.direct(s.endpoint(), cache, Duration.ofMillis(400))).pull(FakeHub.REPO,
                List.of(), SILENT));
        assertThat(Duration.ofNanos(System.nanoTime() - start)).isLessThan(Duration.ofMillis(2900));
    }
}
