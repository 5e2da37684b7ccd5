package qlora4j.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.hub.HubException.Kind;

/** Downloads, and those that were interrupted. */
class HubTest extends HubFixture {
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
