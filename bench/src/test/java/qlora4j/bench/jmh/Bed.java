package qlora4j.bench.jmh;

import java.util.ArrayList;
import java.util.List;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** An open cpu backend with a stream, and memory that is freed with it. The width is that of the JVM. */
@State(Scope.Benchmark)
public class Bed {
    private static final int PURPOSE = 0x6a6d68;

    /** Threads of the backend; 0: all. */
    @Param("0")
    int threads;

    /** The compute type: float32 or bfloat16. */
    @Param("float32")
    String type;

    Backend backend;
    Stream stream;
    DType dtype;
    private final List<AutoCloseable> owned = new ArrayList<>();
    private int item;

    @Setup(Level.Trial)
    public void open() {
        backend = Backends.open(Backend.CPU, null, threads);
        stream = backend.openStream();
        dtype = type.equals("bfloat16") ? DType.BF16 : DType.F32;
    }

    /**
     * Closed before the backend, the last first. A tear-down of the benchmark's own would come too late: JMH tears states
     * down in the order in which it set them up, this one first.
     */
    <T extends AutoCloseable> T owned(T t) {
        owned.add(t);
        return t;
    }

    @TearDown(Level.Trial)
    public void close() throws Exception {
        while (!owned.isEmpty()) {
            owned.removeLast().close();
        }
        stream.close();
        backend.close();
    }

    /** A zeroed tensor. */
    Tensor zeros(DType t, long... shape) {
        Allocation a = owned(
                backend.allocate(Math.max(1, t.bytes(Tensor.elements(shape))), MemoryUse.WORKSPACE));
        return a.tensor(0, t, shape);
    }

    /** Normal deviates of the compute type. */
    Tensor random(long... shape) {
        return random(dtype, shape);
    }

    /** Normal deviates: some thousand, repeated. */
    Tensor random(DType t, long... shape) {
        Philox.Sequence draws = new Philox.Sequence(1, PURPOSE, item++);
        Tensor all = zeros(t, shape);
        int n = (int) Math.min(all.size(), 8191);
        Tensor some = Tensor.zeros(t, n);
        for (int i = 0; i < n; i++) {
            some.set(i, draws.nextGaussian());
        }
        for (long at = 0; at < all.size(); at += n) {
            long m = Math.min(n, all.size() - at);
            all.slice(at, m).copyFrom(some.slice(0, m));
        }
        return all;
    }

    /** Ints from 0, wrapped at {@code bound}. */
    Tensor ints(int n, int bound) {
        Tensor t = zeros(DType.I32, n);
        for (int i = 0; i < n; i++) {
            t.set(i, i % bound);
        }
        return t;
    }

    /** Int values. */
    Tensor ints(int... values) {
        return zeros(DType.I32, values.length).copyFrom(Tensor.of(values, values.length));
    }
}
