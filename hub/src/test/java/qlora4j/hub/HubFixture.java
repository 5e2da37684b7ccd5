package qlora4j.hub;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.sun.net.httpserver.HttpExchange;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.io.TempDir;
import qlora4j.hub.HubException.Kind;

/** A hub in this process, a cache of its own, and what tests of downloads ask of both. No test leaves the loopback, none waits. */
@Timeout(60)
abstract class HubFixture {
    static final String WEIGHTS = "model.safetensors";
    static final String GET_WEIGHTS = "GET /owner/name/resolve/" + FakeHub.COMMIT + "/" + WEIGHTS;
    static final Hub.Listener SILENT = new Hub.Listener() {
    };

    @TempDir
    Path cache;
    FakeHub server;
    final List<Duration> waits = new ArrayList<>();

    @BeforeEach
    void start() throws IOException {
        server = FakeHub.withModel();
    }

    @AfterEach
    void stop() {
        server.close();
    }

    Hub hub(HubSettings settings) {
        return new Hub(settings, time -> {
            synchronized (waits) {
                waits.add(time);
            }
        });
    }

    Hub hub() {
        return hub(server.settings(cache));
    }

    Path pull() throws IOException {
        return hub().pull(FakeHub.REPO, List.of(), SILENT);
    }

    void fails(Kind kind, String message) {
        assertThatThrownBy(this::pull).isInstanceOf(HubException.class).hasMessageContaining(message)
                .extracting(e -> ((HubException) e).kind()).isEqualTo(kind);
    }

    static boolean isGet(HttpExchange e, String name) {
        return e.getRequestMethod().equals("GET") && e.getRequestURI().getPath().endsWith("/" + name);
    }

    Path folder() {
        return cache.resolve("models--owner--name");
    }

    void complete(Path snapshot) throws IOException {
        assertThat(snapshot).isEqualTo(folder().resolve("snapshots").resolve(FakeHub.COMMIT));
        assertThat(snapshot.resolve(WEIGHTS)).hasBinaryContent(server.files.get(WEIGHTS));
        try (Stream<Path> blobs = Files.list(folder().resolve("blobs"))) {
            assertThat(blobs.map(b -> b.getFileName().toString()))
                    .allMatch(n -> n.matches("[0-9a-f]{40}|[0-9a-f]{64}"));
        }
    }

    static int from(HttpExchange e) {
        String range = e.getRequestHeaders().getFirst("Range");
        return range == null ? 0 : Integer.parseInt(range.replaceAll("\\D", ""));
    }

    Path leftover() {
        return folder().resolve("blobs")
                .resolve(FakeHub.etag(WEIGHTS, server.files.get(WEIGHTS)) + ".qlora.incomplete");
    }

    Path leave(byte[] bytes) throws IOException {
        Files.createDirectories(folder().resolve("blobs"));
        return Files.write(leftover(), bytes);
    }
}
