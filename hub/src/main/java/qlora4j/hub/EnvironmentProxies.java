package qlora4j.hub;

import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.SocketAddress;
import java.net.URI;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Map;

/** The proxies that the environment names, as curl and Python read them; Java reads none of these variables. */
final class EnvironmentProxies extends ProxySelector {
    private static final int DEFAULT_PORT = 80;

    private final Proxy http;
    private final Proxy https;
    /** Hosts, or ends of hosts, that are asked directly. */
    private final List<String> direct;

    private EnvironmentProxies(Proxy http, Proxy https, List<String> direct) {
        this.http = http;
        this.https = https;
        this.direct = direct;
    }

    /**
     * Reads an environment.
     *
     * @throws IllegalArgumentException if a variable is no address of a proxy, or of one that asks for a password
     */
    static EnvironmentProxies of(Map<String, String> environment) {
        String all = get(environment, "ALL_PROXY", "");
        List<String> direct = Arrays.stream(get(environment, "NO_PROXY", "").split(","))
                .map(h -> h.strip().toLowerCase(Locale.ROOT).replaceFirst("^\\*?\\.", "")).filter(h -> !h.isEmpty())
                .toList();
        return new EnvironmentProxies(proxy("HTTP_PROXY", get(environment, "HTTP_PROXY", all)),
                proxy("HTTPS_PROXY", get(environment, "HTTPS_PROXY", all)), direct);
    }

    private static String get(Map<String, String> environment, String name, String absent) {
        String lower = environment.getOrDefault(name.toLowerCase(Locale.ROOT), "");
        String upper = environment.getOrDefault(name, "");
        return !lower.isEmpty() ? lower : !upper.isEmpty() ? upper : absent;
    }

    private static Proxy proxy(String name, String text) {
        if (text.isEmpty()) {
            return Proxy.NO_PROXY;
        }
        URI uri;
        try {
            uri = URI.create(text.contains("://") ? text : "http://" + text);
        } catch (IllegalArgumentException e) {
            throw new IllegalArgumentException(name + ": no address of a proxy", e);
        }
        if (!"http".equalsIgnoreCase(uri.getScheme()) || uri.getHost() == null || uri.getUserInfo() != null) {
            throw new IllegalArgumentException(name + ": http://HOST:PORT is expected, without a password");
        }
        return new Proxy(Proxy.Type.HTTP, InetSocketAddress.createUnresolved(uri.getHost(),
                uri.getPort() < 0 ? DEFAULT_PORT : uri.getPort()));
    }

    @Override
    public List<Proxy> select(URI uri) {
        String host = uri.getHost() == null ? "" : uri.getHost().toLowerCase(Locale.ROOT);
        if (direct.contains("*") || direct.stream().anyMatch(d -> host.equals(d) || host.endsWith("." + d))) {
            return List.of(Proxy.NO_PROXY);
        }
        return List.of("https".equalsIgnoreCase(uri.getScheme()) ? https : http);
    }

    @Override
    public void connectFailed(URI uri, SocketAddress address, IOException failure) {
        // The request fails and says so.
    }
}
