package qlora4j.cli;

import static org.assertj.core.api.Assertions.assertThat;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.time.Duration;
import java.util.HexFormat;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import picocli.CommandLine;
import qlora4j.hub.HubSettings;

/** {@code pull}, and {@code --model owner/name}, with a server that has the tiny model. */
class HubCommandsTest {
    private static final String COMMIT = "ab".repeat(20);

    @TempDir
    private Path folder;
    private HttpServer server;
    private final AtomicInteger requests = new AtomicInteger();
    private final StringWriter out = new StringWriter();
    private final StringWriter err = new StringWriter();
    private Path files;

    @BeforeEach
    void start() throws IOException {
        files = TinyModel.write(folder.resolve("files"), 7);
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.createContext("/", this::answer);
        server.start();
        offline(false);
    }

    private void offline(boolean offline) {
        URI endpoint = URI.create("http://127.0.0.1:" + server.getAddress().getPort());
        HubModels.source(() -> HubSettings.direct(endpoint, folder.resolve("cache"), Duration.ofSeconds(10))
                .withOffline(offline));
    }

    @AfterEach
    void stop() {
        HubModels.source(HubSettings::ofProcess);
        server.stop(0);
    }

    private void answer(HttpExchange exchange) throws IOException {
        try (exchange) {
            requests.incrementAndGet();
            String path = exchange.getRequestURI().getPath();
            Path file = files.resolve(path.substring(path.lastIndexOf('/') + 1));
            byte[] body;
            if (path.startsWith("/api/models/owner/tiny/revision/")) {
                body = list().getBytes(StandardCharsets.UTF_8);
            } else if (path.startsWith("/owner/tiny/resolve/" + COMMIT + "/") && Files.exists(file)) {
                body = Files.readAllBytes(file);
                exchange.getResponseHeaders().set("ETag", '"' + HexFormat.of().formatHex(MessageDigest.getInstance(
                        "SHA-256").digest(body)) + '"');
            } else {
                exchange.sendResponseHeaders(404, -1);
                return;
            }
            if (exchange.getRequestMethod().equals("HEAD")) {
                exchange.getResponseHeaders().set("Content-Length", String.valueOf(body.length));
                exchange.sendResponseHeaders(200, -1);
                return;
            }
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
        } catch (java.security.NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    private String list() throws IOException {
        var json = new ObjectMapper().createObjectNode().put("sha", COMMIT);
        var siblings = json.putArray("siblings");
        try (Stream<Path> all = Files.list(files)) {
            all.forEach(f -> siblings.addObject().put("rfilename", f.getFileName().toString()));
        }
        return json.toString();
    }

    private int run(String... arguments) {
        out.getBuffer().setLength(0);
        err.getBuffer().setLength(0);
        CommandLine line = Main.commandLine().setOut(new PrintWriter(out, true)).setErr(new PrintWriter(err, true));
        return Main.execute(line, arguments);
    }

    private int generate(String model) {
        return run("generate", "--model", model, "--prompt", "It is", "--max-new-tokens", "3", "--temperature", "0");
    }

    @Test
    void aPulledModelIsUsedWithoutTheNetwork() {
        assertThat(run("pull", "owner/tiny")).as(err.toString()).isZero();
        assertThat(out.toString()).startsWith("model: ").contains(COMMIT);
        assertThat(err.toString()).contains("model.safetensors: ").contains("config.json: ");
        int all = requests.get();
        assertThat(generate("owner/tiny")).as(err.toString()).isZero();
        String text = out.toString();
        assertThat(generate("owner/tiny@" + COMMIT)).as(err.toString()).isZero();
        assertThat(out.toString()).isEqualTo(text);
        assertThat(generate(files.toString())).isZero();
        assertThat(out.toString()).isEqualTo(text);
        assertThat(requests).hasValue(all);
    }

    @Test
    void aModelThatIsNotThereIsSaidAndDownloaded() {
        assertThat(generate("owner/tiny")).as(err.toString()).isZero();
        assertThat(err.toString()).contains("owner/tiny is no directory here, and not in the cache")
                .contains("http://127.0.0.1");
    }

    @Test
    void logitsAreOfAPulledModelToo() {
        Path dump = folder.resolve("dump.safetensors");
        assertThat(run("dump-logits", "--model", "owner/tiny", "--ids", "1,2,3", "--output", dump.toString()))
                .as(err.toString()).isZero();
        assertThat(dump).isNotEmptyFile();
        assertThat(run("merge", "--model", "owner/tiny", "--adapter", "owner/other", "--output",
                folder.resolve("merged").toString())).isEqualTo(2);
        assertThat(err.toString()).contains("owner/other").contains("no such model");
    }

    @Test
    void errorsSayWhatToDo() {
        assertThat(run("pull", "owner/other")).isEqualTo(2);
        assertThat(err.toString()).contains("owner/other").contains("no such model");
        assertThat(run("pull", "tiny")).isEqualTo(2);
        assertThat(err.toString()).contains("owner/name");
        assertThat(run("pull", "owner/tiny@a", "--revision", "b")).isEqualTo(2);
        assertThat(err.toString()).contains("--revision b");
        int all = requests.get();
        offline(true);
        assertThat(generate("owner/tiny")).isEqualTo(2);
        assertThat(err.toString()).contains("HF_HUB_OFFLINE");
        assertThat(generate("no/such/directory")).isEqualTo(2);
        assertThat(err.toString()).contains("no/such/directory: there is no such directory");
        assertThat(requests).hasValue(all);
    }
}
