package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Map;
import java.util.Random;
import java.util.concurrent.ConcurrentHashMap;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Device;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Tensor;

/** What tests on a GPU share: fresh random data, poisoned outputs, copies to and from the device. */
final class Gpu {
    /** A seed of this run, printed so that a failure can be run again with -Dqlora4j.seed. */
    static final long SEED = Long.getLong("qlora4j.seed", System.nanoTime());

    private static final int GUARD = 256;
    private static final Map<Place, Allocation> POISONED = new ConcurrentHashMap<>();

    /** Another backend may get the same address later. */
    private record Place(Backend backend, long address) {
        Place(Backend backend, Tensor t) {
            this(backend, t.data().address());
        }
    }

    static {
        System.out.println("seed of this run: -Dqlora4j.seed=" + SEED);
    }

    private Gpu() {
    }

    /** The first GPU; fails where there is none, since tests tagged gpu run only where one is declared present. */
    static CudaBackend open() {
        return (CudaBackend) Backends.open(Backend.CUDA);
    }

    /** The first GPU again, in a context of its own. */
    static CudaBackend openSeparate() {
        Device first = new Device(Backend.CUDA, 0);
        return new CudaBackend(first, CudaContext.separate(first.index()));
    }

    /** A host tensor of normal random numbers, rounded to {@code type}. */
    static Tensor normal(Random random, DType type, long... shape) {
        Tensor t = Tensor.zeros(type, shape);
        for (long i = 0; i < t.size(); i++) {
            t.set(i, random.nextGaussian());
        }
        return t;
    }

    /** A copy on the device, which lives until the backend is closed. */
    static Tensor device(Backend backend, Tensor host) {
        Tensor t = backend.allocate(MemoryUse.ACTIVATIONS, host.dtype(), host.shape());
        POISONED.remove(new Place(backend, t));
        backend.upload(host, t);
        return t;
    }

    /**
     * A device tensor whose every byte is 0xff (NaN in all float types, -1 in integers), with a guard of the same behind
     * it that {@link #host} looks at.
     */
    static Tensor poisoned(Backend backend, DType type, long... shape) {
        long bytes = type.bytes(Tensor.elements(shape));
        Allocation memory = backend.allocate(bytes + GUARD, MemoryUse.ACTIVATIONS);
        Tensor all = Tensor.zeros(DType.U8, memory.bytes());
        all.data().fill((byte) 0xff);
        backend.upload(all, memory.tensor(0, DType.U8, memory.bytes()));
        POISONED.put(new Place(backend, memory.data().address()), memory);
        return memory.tensor(0, type, shape);
    }

    /** A host copy; fails where a kernel wrote behind a poisoned tensor. */
    static Tensor host(Backend backend, Tensor device) {
        Tensor t = Tensor.zeros(device.dtype(), device.shape());
        backend.download(device, t);
        Allocation memory = POISONED.get(new Place(backend, device));
        if (memory != null) {
            Tensor guard = Tensor.zeros(DType.U8, GUARD);
            backend.download(memory.tensor(memory.bytes() - GUARD, DType.U8, GUARD), guard);
            assertThat(guard.toInts()).as("bytes behind %s", device).containsOnly(0xff);
        }
        return t;
    }
}
