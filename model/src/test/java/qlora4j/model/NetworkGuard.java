package qlora4j.model;

import java.io.IOException;
import java.net.DatagramSocket;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.net.Proxy;
import java.net.ProxySelector;
import java.net.Socket;
import java.net.SocketAddress;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.net.spi.InetAddressResolver;
import java.net.spi.InetAddressResolverProvider;
import java.nio.channels.AsynchronousSocketChannel;
import java.nio.channels.DatagramChannel;
import java.nio.channels.SocketChannel;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Queue;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.stream.Stream;

/**
 * The main class of a JVM that has no network: each attempt to use it is refused, and written down even where the caller
 * swallows the error. It covers what Java code can do: plain sockets and {@code URLConnection} (socket factories, proxy
 * selector), channels and {@code HttpClient} (selector and asynchronous channel providers, set by system
 * properties), datagrams, and the look-up of names. It does not see connections that native code opens itself.
 */
public final class NetworkGuard {
    private static final Queue<String> ATTEMPTS = new ConcurrentLinkedQueue<>();
    private static volatile boolean active;

    private NetworkGuard() {
    }

    static SecurityException refuse(String attempt) {
        ATTEMPTS.add(attempt);
        return new SecurityException("no network here: " + attempt);
    }

    @SuppressWarnings("deprecation") // the factories are the only way to see plain sockets
    private static void install() throws IOException {
        active = true;
        Socket.setSocketImplFactory(() -> {
            throw refuse("socket");
        });
        DatagramSocket.setDatagramSocketImplFactory(() -> {
            throw refuse("datagram socket");
        });
        ProxySelector.setDefault(new ProxySelector() {
            @Override
            public List<Proxy> select(URI uri) {
                throw refuse("connection to " + uri);
            }

            @Override
            public void connectFailed(URI uri, SocketAddress address, IOException e) {
                throw refuse("failed connection to " + uri);
            }
        });
    }

    /** Arguments: {@code tokenizer DIR}, or {@code probe}, which tries every way out. Prints the attempts. */
    public static void main(String[] args) throws Exception {
        install();
        try {
            if (args[0].equals("probe")) {
                probe();
            } else {
                try (Tokenizer tokenizer = Tokenizer.open(Path.of(args[1]))) {
                    int[] ids = tokenizer.encode("Hello, world!", true);
                    System.out.println("decoded " + tokenizer.decode(ids, true));
                }
            }
        } finally {
            ATTEMPTS.forEach(a -> System.out.println("attempt: " + a));
        }
    }

    private static void probe() throws Exception {
        URI there = URI.create("http://192.0.2.1/"); // TEST-NET-1 of RFC 5737: routed nowhere
        InetSocketAddress address = new InetSocketAddress("192.0.2.1", 80);
        Map<String, Callable<?>> ways = new LinkedHashMap<>();
        ways.put("URLConnection", () -> there.toURL().openConnection().getInputStream());
        ways.put("URLConnection, no proxy", () -> there.toURL().openConnection(Proxy.NO_PROXY).getInputStream());
        ways.put("HttpClient", () -> HttpClient.newHttpClient().send(HttpRequest.newBuilder(there).build(),
                HttpResponse.BodyHandlers.discarding()));
        ways.put("Socket", () -> new Socket("192.0.2.1", 80));
        ways.put("DatagramSocket", DatagramSocket::new);
        ways.put("SocketChannel", () -> SocketChannel.open(address));
        ways.put("DatagramChannel", DatagramChannel::open);
        ways.put("AsynchronousSocketChannel", AsynchronousSocketChannel::open);
        ways.put("look-up", () -> InetAddress.getByName("qlora4j.invalid"));
        for (Map.Entry<String, Callable<?>> way : ways.entrySet()) {
            int before = ATTEMPTS.size();
            String outcome = "got through";
            try {
                way.getValue().call();
            } catch (Exception | Error e) {
                outcome = ATTEMPTS.size() > before ? "refused" : "unseen: " + e;
            }
            System.out.println("probe " + way.getKey() + ": " + outcome);
        }
    }

    /** Channels: named by the system property {@code java.nio.channels.spi.SelectorProvider}. */
    public static final class Channels extends java.nio.channels.spi.SelectorProvider {
        @Override
        public DatagramChannel openDatagramChannel() {
            throw refuse("datagram channel");
        }

        @Override
        public DatagramChannel openDatagramChannel(java.net.ProtocolFamily family) {
            throw refuse("datagram channel");
        }

        @Override
        public java.nio.channels.Pipe openPipe() {
            throw refuse("pipe");
        }

        @Override
        public java.nio.channels.spi.AbstractSelector openSelector() {
            throw refuse("selector");
        }

        @Override
        public java.nio.channels.ServerSocketChannel openServerSocketChannel() {
            throw refuse("server socket channel");
        }

        @Override
        public SocketChannel openSocketChannel() {
            throw refuse("socket channel");
        }
    }

    /** Asynchronous ones: {@code java.nio.channels.spi.AsynchronousChannelProvider}. */
    public static final class AsynchronousChannels extends java.nio.channels.spi.AsynchronousChannelProvider {
        @Override
        public java.nio.channels.AsynchronousChannelGroup openAsynchronousChannelGroup(int threads,
                java.util.concurrent.ThreadFactory factory) {
            throw refuse("asynchronous channel group");
        }

        @Override
        public java.nio.channels.AsynchronousChannelGroup openAsynchronousChannelGroup(
                java.util.concurrent.ExecutorService executor, int size) {
            throw refuse("asynchronous channel group");
        }

        @Override
        public java.nio.channels.AsynchronousServerSocketChannel openAsynchronousServerSocketChannel(
                java.nio.channels.AsynchronousChannelGroup group) {
            throw refuse("asynchronous server socket channel");
        }

        @Override
        public AsynchronousSocketChannel openAsynchronousSocketChannel(
                java.nio.channels.AsynchronousChannelGroup group) {
            throw refuse("asynchronous socket channel");
        }
    }

    /** Names: a service, which every test JVM of this module finds; it does nothing until the guard is installed. */
    public static final class Names extends InetAddressResolverProvider {
        @Override
        public InetAddressResolver get(Configuration configuration) {
            InetAddressResolver system = configuration.builtinResolver();
            return new InetAddressResolver() {
                @Override
                public Stream<InetAddress> lookupByName(String host, LookupPolicy policy)
                        throws java.net.UnknownHostException {
                    if (active) {
                        throw refuse("look-up of " + host);
                    }
                    return system.lookupByName(host, policy);
                }

                @Override
                public String lookupByAddress(byte[] address) throws java.net.UnknownHostException {
                    if (active) {
                        throw refuse("look-up of an address");
                    }
                    return system.lookupByAddress(address);
                }
            };
        }

        @Override
        public String name() {
            return "network guard";
        }
    }
}
