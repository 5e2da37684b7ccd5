package qlora4j.hub;

import java.io.IOException;
import java.io.InputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.time.Instant;
import java.time.ZonedDateTime;
import java.time.format.DateTimeFormatter;
import java.time.format.DateTimeParseException;
import java.util.Locale;
import java.util.Optional;
import java.util.Set;
import qlora4j.hub.HubException.Kind;

/**
 * Requests to the hub: with the token to the hub itself and to nobody else, redirects followed by hand, answers that a
 * second try may better tried again.
 */
final class HubClient implements AutoCloseable {
    /** How often a request is made before its failure is reported. */
    static final int ATTEMPTS = 5;
    /** The longest that a server may ask to wait. */
    static final Duration LONGEST_WAIT = Duration.ofMinutes(5);
    private static final int REDIRECTS = 10;
    private static final Set<Integer> PASSING = Set.of(408, 429, 500, 502, 503, 504);
    private static final int TOO_MANY = 429;
    /** No error where a file was to be continued: its reader begins anew. */
    static final int RANGE_REFUSED = 416;
    private static final String USER_AGENT = "qlora4j";
    private static final int SHOWN = 300;

    private final HubSettings settings;
    private final Sleeper sleeper;
    private final HttpClient http;

    /** Waits between attempts; tests do not. */
    interface Sleeper {
        void sleep(Duration time) throws InterruptedException;
    }

    HubClient(HubSettings settings, Sleeper sleeper) {
        this.settings = settings;
        this.sleeper = sleeper;
        this.http = HttpClient.newBuilder().followRedirects(HttpClient.Redirect.NEVER)
                .connectTimeout(settings.timeout()).proxy(settings.proxies()).version(HttpClient.Version.HTTP_1_1)
                .build();
    }

    HubSettings settings() {
        return settings;
    }

    /** An address on the hub. */
    URI at(String path) {
        return URI.create(settings.endpoint() + path);
    }

    /** What a request asks for. */
    record Ask(RepoId repo, String what, String method, URI uri, long from) {
    }

    /**
     * The answer to a request, whose body the caller closes. Redirects are followed; those of a HEAD to another host are
     * not, because what it asks for stands in the redirect.
     *
     * @throws HubException if the answer is an error
     */
    HttpResponse<InputStream> send(Ask ask) throws IOException {
        for (int attempt = 1;; attempt++) {
            HttpResponse<InputStream> response;
            try {
                response = follow(ask);
            } catch (HubException e) {
                throw e;
            } catch (IOException e) {
                if (attempt == ATTEMPTS) {
                    throw new HubException(Kind.UNREACHABLE, ask.what + ": " + ask.uri.getHost()
                            + " cannot be reached (" + reason(e) + ")", e);
                }
                pause(ask, backoff(attempt));
                continue;
            }
            if (!PASSING.contains(response.statusCode())) {
                return checked(ask, response);
            }
            Optional<Duration> asked = retryAfter(response);
            response.body().close();
            boolean tooLong = asked.isPresent() && asked.get().compareTo(LONGEST_WAIT) > 0;
            if (attempt == ATTEMPTS || tooLong) {
                throw new HubException(response.statusCode() == TOO_MANY ? Kind.RATE_LIMITED : Kind.UNREACHABLE,
                        ask.what + ": " + response.uri().getHost() + " answered " + response.statusCode()
                                + (tooLong ? " and asks to wait " + asked.get().toSeconds() + " seconds; try again then"
                                        : " " + ATTEMPTS + " times; try again later")
                                + (response.statusCode() == TOO_MANY && settings.token() == null
                                        ? ", or with a token in HF_TOKEN, whose limits are higher"
                                        : ""));
            }
            pause(ask, asked.orElse(backoff(attempt)));
        }
    }

    static String reason(IOException e) {
        return e.getMessage() == null ? e.getClass().getSimpleName() : e.getMessage();
    }

    static Duration backoff(int attempt) {
        return Duration.ofSeconds(1L << Math.min(attempt - 1, 5));
    }

    void pause(Ask ask, Duration time) throws IOException {
        try {
            sleeper.sleep(time);
        } catch (InterruptedException e) {
            Thread.currentThread().interrupt();
            throw new HubException(Kind.UNREACHABLE, ask.what + ": interrupted", e);
        }
    }

    private HttpResponse<InputStream> follow(Ask ask) throws IOException {
        URI uri = ask.uri;
        for (int i = 0; i <= REDIRECTS; i++) {
            HttpRequest.Builder request = HttpRequest.newBuilder(uri).timeout(settings.timeout())
                    .header("User-Agent", USER_AGENT).header("Accept-Encoding", "identity")
                    .method(ask.method, HttpRequest.BodyPublishers.noBody());
            if (settings.token() != null && isSameServer(uri, settings.endpoint())) {
                request.header("Authorization", "Bearer " + settings.token());
            }
            if (ask.from > 0) {
                request.header("Range", "bytes=" + ask.from + "-");
            }
            HttpResponse<InputStream> response;
            try {
                response = http.send(request.build(), BodyHandlers.ofInputStream());
            } catch (InterruptedException e) {
                Thread.currentThread().interrupt();
                throw new HubException(Kind.UNREACHABLE, ask.what + ": interrupted", e);
            }
            int code = response.statusCode();
            if (code < 300 || code >= 400 || code == 304) {
                return response;
            }
            URI next = location(ask, response);
            if (ask.method.equals("HEAD") && !isSameServer(next, uri)) {
                return response;
            }
            response.body().close();
            uri = next;
        }
        throw new HubException(Kind.BAD_ANSWER, ask.what + ": more than " + REDIRECTS + " redirects from " + ask.uri);
    }

    private static boolean isSameServer(URI a, URI b) {
        return a.getScheme().equalsIgnoreCase(b.getScheme()) && a.getHost().equalsIgnoreCase(b.getHost())
                && port(a) == port(b);
    }

    private static int port(URI uri) {
        return uri.getPort() >= 0 ? uri.getPort() : uri.getScheme().equalsIgnoreCase("https") ? 443 : 80;
    }

    private static URI location(Ask ask, HttpResponse<?> response) throws HubException {
        String text = response.headers().firstValue("Location").orElse("");
        URI next;
        try {
            next = response.uri().resolve(text);
        } catch (IllegalArgumentException e) {
            throw new HubException(Kind.BAD_ANSWER, ask.what + ": a redirect to no address: " + shown(text), e);
        }
        String scheme = String.valueOf(next.getScheme()).toLowerCase(Locale.ROOT);
        boolean secure = response.uri().getScheme().equalsIgnoreCase("https");
        if (text.isEmpty() || next.getHost() == null || next.getUserInfo() != null
                || !scheme.equals("https") && (secure || !scheme.equals("http"))) {
            throw new HubException(Kind.BAD_ANSWER, ask.what + ": a redirect to " + shown(text)
                    + ", which is not followed");
        }
        return next;
    }

    /** Text of a server made fit for a message. */
    static String shown(String text) {
        String line = text.replaceAll("\\p{Cntrl}+", " ").strip();
        return line.length() <= SHOWN ? line : line.substring(0, SHOWN) + "...";
    }

    private static Optional<Duration> retryAfter(HttpResponse<?> response) {
        String text = response.headers().firstValue("Retry-After").orElse("").strip();
        if (text.matches("\\d{1,9}")) {
            return Optional.of(Duration.ofSeconds(Long.parseLong(text)));
        }
        try {
            Instant until = ZonedDateTime.parse(text, DateTimeFormatter.RFC_1123_DATE_TIME).toInstant();
            Duration wait = Duration.between(Instant.now(), until);
            return Optional.of(wait.isNegative() ? Duration.ZERO : wait);
        } catch (DateTimeParseException e) {
            return Optional.empty();
        }
    }

    private HttpResponse<InputStream> checked(Ask ask, HttpResponse<InputStream> response) throws IOException {
        int code = response.statusCode();
        if (code < 400 || code == RANGE_REFUSED && ask.from > 0) {
            return response;
        }
        response.body().close();
        String error = response.headers().firstValue("X-Error-Code").orElse("");
        String message = shown(response.headers().firstValue("X-Error-Message").orElse(""));
        String told = message.isEmpty() ? "" : " (the server says: " + message + ")";
        String page = settings.endpoint() + "/" + ask.repo.name();
        if (error.equals("GatedRepo") || code == 403) {
            throw new HubException(Kind.GATED, ask.what + ": access is not granted; " + (settings.token() == null
                    ? "log in to " + page + ", accept the terms, and put a token into HF_TOKEN"
                    : "accept the terms on " + page + " with the account of the token, or use another token") + told);
        }
        if (error.equals("RevisionNotFound")) {
            throw new HubException(Kind.NO_REVISION, ask.what + ": " + ask.repo.name() + " has no revision \""
                    + ask.repo.revision() + "\"" + told);
        }
        if (error.equals("EntryNotFound")) {
            throw new HubException(Kind.NO_FILE, ask.what + ": there is no such file" + told);
        }
        if (error.equals("RepoNotFound") || code == 404) {
            throw new HubException(Kind.NOT_FOUND, ask.what + ": there is no such model on "
                    + settings.endpoint() + (settings.token() == null
                            ? ", or it is private: then put a token into HF_TOKEN"
                            : ", or the token does not open it")
                    + told);
        }
        if (code == 401) {
            throw new HubException(Kind.UNAUTHORIZED, ask.what + ": " + (settings.token() == null
                    ? "there is no such model, or it needs a token: put one into HF_TOKEN"
                    : "the token is not accepted; see HF_TOKEN and the token's file") + told);
        }
        throw new HubException(Kind.BAD_ANSWER,
                ask.what + ": " + response.uri().getHost() + " answered " + code + told);
    }

    @Override
    public void close() {
        http.shutdownNow();
    }
}
