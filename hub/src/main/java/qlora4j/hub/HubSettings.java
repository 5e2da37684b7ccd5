package qlora4j.hub;

import java.io.IOException;
import java.net.ProxySelector;
import java.net.URI;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * What the environment says about the hub, by the variables of huggingface_hub.
 *
 * @param endpoint {@code HF_ENDPOINT}, else the public hub
 * @param cache {@code HF_HUB_CACHE}, else {@code hub} in {@code HF_HOME}, which is {@code ~/.cache/huggingface} by
 *     default
 * @param token {@code HF_TOKEN}, else what the file {@code HF_TOKEN_PATH} or {@code HF_HOME/token} holds; null for none
 * @param offline {@code HF_HUB_OFFLINE} or {@code TRANSFORMERS_OFFLINE}: the network is never used
 * @param proxies {@code HTTPS_PROXY}, {@code HTTP_PROXY}, {@code ALL_PROXY} and {@code NO_PROXY}, in either case of
 *     letters
 * @param timeout how long to wait for an answer to begin or to go on: {@code HF_HUB_DOWNLOAD_TIMEOUT} in seconds
 */
public record HubSettings(URI endpoint, Path cache, String token, boolean offline, ProxySelector proxies,
        Duration timeout) {
    private static final String PUBLIC_HUB = "https://huggingface.co";
    private static final Set<String> TRUE = Set.of("1", "on", "yes", "true");
    private static final Pattern VARIABLE = Pattern.compile("\\$(?:(\\w+)|\\{([^}]*)})");
    private static final int TIMEOUT_SECONDS = 30;

    /**
     * Reads an environment.
     *
     * @param environment its variables
     * @param home the user's home directory
     * @throws IllegalArgumentException if a variable makes no sense
     * @throws IOException if the token's file cannot be read
     */
    public static HubSettings of(Map<String, String> environment, Path home) throws IOException {
        String xdg = environment.getOrDefault("XDG_CACHE_HOME", "");
        Path hfHome = path(environment, home, "HF_HOME",
                (xdg.isEmpty() ? home.resolve(".cache") : expand(environment, home, xdg)).resolve("huggingface"));
        Path cache = path(environment, home, "HF_HUB_CACHE",
                path(environment, home, "HUGGINGFACE_HUB_CACHE", hfHome.resolve("hub")));
        String endpoint = environment.getOrDefault("HF_ENDPOINT", "");
        return new HubSettings(endpoint(endpoint.isEmpty() ? PUBLIC_HUB : endpoint), cache,
                token(environment, home, hfHome), isTrue(environment, "HF_HUB_OFFLINE")
                        || isTrue(environment, "TRANSFORMERS_OFFLINE"),
                EnvironmentProxies.of(environment), timeout(environment));
    }

    /** Settings for a server that is asked directly, without a token. */
    public static HubSettings direct(URI endpoint, Path cache, Duration timeout) {
        return new HubSettings(endpoint, cache, null, false, EnvironmentProxies.of(Map.of()), timeout);
    }

    /** The same with another token. */
    public HubSettings withToken(String other) {
        return new HubSettings(endpoint, cache, other, offline, proxies, timeout);
    }

    /** The same with or without the network. */
    public HubSettings withOffline(boolean other) {
        return new HubSettings(endpoint, cache, token, other, proxies, timeout);
    }

    /** The environment of this process. */
    public static HubSettings ofProcess() throws IOException {
        return of(System.getenv(), Path.of(System.getProperty("user.home")));
    }

    private static URI endpoint(String text) {
        try {
            URI uri = URI.create(text.replaceFirst("/+$", ""));
            String scheme = String.valueOf(uri.getScheme()).toLowerCase(Locale.ROOT);
            if ((scheme.equals("http") || scheme.equals("https")) && uri.getHost() != null && uri.getQuery() == null
                    && uri.getFragment() == null && uri.getUserInfo() == null) {
                return uri;
            }
        } catch (IllegalArgumentException e) {
            throw new IllegalArgumentException("HF_ENDPOINT " + text + ": no address (" + e.getMessage() + ")", e);
        }
        throw new IllegalArgumentException("HF_ENDPOINT " + text + ": http://HOST or https://HOST is expected");
    }

    private static String token(Map<String, String> environment, Path home, Path hfHome) throws IOException {
        String token = environment.getOrDefault("HF_TOKEN", environment.getOrDefault("HUGGING_FACE_HUB_TOKEN", ""))
                .strip();
        Path file = path(environment, home, "HF_TOKEN_PATH", hfHome.resolve("token"));
        if (token.isEmpty() && !isTrue(environment, "HF_HUB_DISABLE_IMPLICIT_TOKEN") && Files.isRegularFile(file)) {
            token = Files.readString(file, StandardCharsets.UTF_8).strip();
        }
        if (!token.chars().allMatch(c -> c > ' ' && c < 0x7f)) {
            throw new IllegalArgumentException("the hub's token (HF_TOKEN, or the file " + file
                    + ") has characters that no token has");
        }
        return token.isEmpty() ? null : token;
    }

    private static Duration timeout(Map<String, String> environment) {
        String text = environment.getOrDefault("HF_HUB_DOWNLOAD_TIMEOUT", "").strip();
        if (text.isEmpty()) {
            return Duration.ofSeconds(TIMEOUT_SECONDS);
        }
        if (!text.matches("[1-9]\\d{0,5}")) {
            throw new IllegalArgumentException("HF_HUB_DOWNLOAD_TIMEOUT " + text + ": a number of seconds is expected");
        }
        return Duration.ofSeconds(Long.parseLong(text));
    }

    private static boolean isTrue(Map<String, String> environment, String name) {
        return TRUE.contains(environment.getOrDefault(name, "").strip().toLowerCase(Locale.ROOT));
    }

    private static Path path(Map<String, String> environment, Path home, String name, Path absent) {
        String text = environment.getOrDefault(name, "");
        return text.isEmpty() ? absent : expand(environment, home, text);
    }

    /** {@code ~} and {@code $NAME} as a shell would. */
    private static Path expand(Map<String, String> environment, Path home, String text) {
        String named = VARIABLE.matcher(text).replaceAll(m -> Matcher.quoteReplacement(environment
                .getOrDefault(m.group(1) != null ? m.group(1) : m.group(2), m.group())));
        if (named.equals("~") || named.startsWith("~/")) {
            return home.resolve(named.substring(Math.min(2, named.length())));
        }
        return Path.of(named);
    }

    /** Without the token, which no message may show. */
    @Override
    public String toString() {
        return "hub " + endpoint + ", cache " + cache + (token == null ? "" : ", with a token")
                + (offline ? ", offline" : "");
    }
}
