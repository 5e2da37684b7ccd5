package qlora4j.hub;

import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.time.Duration;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.concurrent.Executors;

/**
 * A server on the loopback that plays the hub for one model, {@code owner/name}: files with checksums, ranges, and
 * whatever {@link #fault} does instead.
 */
final class FakeHub implements AutoCloseable {
    static final String COMMIT = "0123456789abcdef0123456789abcdef01234567";
    static final RepoId REPO = RepoId.parse("owner/name");

    /** Answers instead of the hub where it returns true. */
    interface Fault {
        boolean answers(HttpExchange exchange, byte[] content) throws IOException;
    }

    final Map<String, byte[]> files = new TreeMap<>();
    /** What is listed beside the files. */
    final List<String> alsoListed = new CopyOnWriteArrayList<>();
    /** {@code METHOD path range authorization} of each request. */
    final List<String> requests = new CopyOnWriteArrayList<>();
    private final HttpServer server;
    private volatile Fault fault = (_, _) -> false;
    volatile String listing;

    FakeHub() throws IOException {
        server = HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
        server.setExecutor(Executors.newVirtualThreadPerTaskExecutor());
        server.createContext("/", this::handle);
        server.start();
    }

    /** A hub with a small model: configuration, tokenizer, weights, and files that nobody needs. */
    static FakeHub withModel() throws IOException {
        FakeHub hub = new FakeHub();
        for (String name : List.of("config.json", "tokenizer.json", "chat_template.jinja", "README.md",
                "pytorch.bin")) {
            hub.files.put(name, ("{\"of\": \"" + name + "\"}").getBytes(StandardCharsets.UTF_8));
        }
        hub.files.put("onnx/model.safetensors", new byte[5]);
        hub.files.put("model.safetensors", content(300_000));
        return hub;
    }

    static byte[] content(int n) {
        byte[] bytes = new byte[n];
        new java.util.Random(n).nextBytes(bytes);
        return bytes;
    }

    void fault(Fault instead) {
        this.fault = instead;
    }

    URI endpoint() {
        return URI.create("http://" + server.getAddress().getAddress().getHostAddress() + ":" + server.getAddress()
                .getPort());
    }

    HubSettings settings(Path cache) {
        return HubSettings.direct(endpoint(), cache, Duration.ofSeconds(10));
    }

    /** Requests that begin so. */
    long count(String start) {
        return requests.stream().filter(r -> r.startsWith(start)).count();
    }

    private void handle(HttpExchange exchange) throws IOException {
        try (exchange) {
            String path = exchange.getRequestURI().getPath();
            requests.add(exchange.getRequestMethod() + " " + path + " "
                    + exchange.getRequestHeaders().getFirst("Range") + " "
                    + exchange.getRequestHeaders().getFirst("Authorization"));
            String prefix = "/owner/name/resolve/" + COMMIT + "/";
            byte[] content = path.startsWith(prefix) ? files.get(path.substring(prefix.length())) : null;
            if (fault.answers(exchange, content)) {
                return;
            }
            if (path.startsWith("/api/models/owner/name/revision/")) {
                send(exchange, 200, (listing != null ? listing : list()).getBytes(StandardCharsets.UTF_8));
            } else if (content != null) {
                sendFile(exchange, path, content);
            } else {
                error(exchange, 404, path.startsWith("/api") ? "RepoNotFound" : "EntryNotFound");
            }
        }
    }

    private String list() {
        StringBuilder json = new StringBuilder("{\"sha\": \"" + COMMIT + "\", \"siblings\": [");
        String comma = "";
        for (List<String> names : List.of(List.copyOf(files.keySet()), alsoListed)) {
            for (String name : names) {
                json.append(comma).append("{\"rfilename\": \"").append(name.replace("\\", "\\\\").replace("\0",
                        "\\u0000")).append("\"}");
                comma = ", ";
            }
        }
        return json.append("]}").toString();
    }

    static void sendFile(HttpExchange exchange, String path, byte[] content) throws IOException {
        exchange.getResponseHeaders().set("ETag", '"' + etag(path, content) + '"');
        exchange.getResponseHeaders().set("X-Repo-Commit", COMMIT);
        if (exchange.getRequestMethod().equals("HEAD")) {
            exchange.getResponseHeaders().set("Content-Length", String.valueOf(content.length));
            exchange.sendResponseHeaders(200, -1);
            return;
        }
        String range = exchange.getRequestHeaders().getFirst("Range");
        if (range == null) {
            send(exchange, 200, content);
            return;
        }
        int from = Integer.parseInt(range.replaceAll("\\D", ""));
        if (from >= content.length) {
            send(exchange, 416, new byte[0]);
            return;
        }
        exchange.getResponseHeaders().set("Content-Range", "bytes " + from + "-" + (content.length - 1) + "/"
                + content.length);
        send(exchange, 206, Arrays.copyOfRange(content, from, content.length));
    }

    /** SHA-256 of weights, git's hash of the others. */
    static String etag(String path, byte[] content) {
        try {
            if (path.endsWith(".safetensors") || path.endsWith(".gguf")) {
                return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
            }
            MessageDigest sha1 = MessageDigest.getInstance("SHA-1");
            sha1.update(("blob " + content.length + "\0").getBytes(StandardCharsets.US_ASCII));
            return HexFormat.of().formatHex(sha1.digest(content));
        } catch (NoSuchAlgorithmException e) {
            throw new IllegalStateException(e);
        }
    }

    static void send(HttpExchange exchange, int code, byte[] body) throws IOException {
        exchange.sendResponseHeaders(code, body.length == 0 ? -1 : body.length);
        try (OutputStream out = exchange.getResponseBody()) {
            out.write(body);
        }
    }

    static void error(HttpExchange exchange, int code, String error) throws IOException {
        if (error != null) {
            exchange.getResponseHeaders().set("X-Error-Code", error);
        }
        exchange.sendResponseHeaders(code, -1);
    }

    /** Sends a whole file's headers and only {@code n} bytes of it, then hangs up. */
    static void cut(HttpExchange exchange, byte[] content, int from, int n) throws IOException {
        if (from > 0) {
            exchange.getResponseHeaders().set("Content-Range", "bytes " + from + "-" + (content.length - 1) + "/"
                    + content.length);
        }
        exchange.sendResponseHeaders(from > 0 ? 206 : 200, content.length - from);
        exchange.getResponseBody().write(content, from, n);
        exchange.getResponseBody().flush();
    }

    @Override
    public void close() {
        server.stop(0);
    }
}
