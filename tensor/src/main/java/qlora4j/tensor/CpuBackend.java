package qlora4j.tensor;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.OptionalLong;
import java.util.ServiceLoader;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;

/** The CPU with scalar kernels ({@code scalar}, one thread) or Vector API kernels ({@code cpu}, a thread team). */
public final class CpuBackend implements Backend {
    private final String name;
    private final Team team;
    private final HostSlabs slabs = new HostSlabs();
    private final MemoryLedger ledger = new MemoryLedger();
    private final Map<Class<?>, Object> kernels = new HashMap<>();
    private final Set<Arena> held = ConcurrentHashMap.newKeySet();

    CpuBackend(String name, int threads) {
        this.name = name;
        this.team = new Team(name.equals(SCALAR) ? 1 : threads);
        KernelProvider.Registry registry = new KernelProvider.Registry() {
            @Override
            public <K> void add(Class<K> type, K implementation) {
                if (kernels.putIfAbsent(type, implementation) != null) {
                    throw new IllegalStateException("two providers of " + type.getName() + " for backend " + name);
                }
            }
        };
        ServiceLoader.load(KernelProvider.class, CpuBackend.class.getClassLoader())
                .forEach(p -> p.register(this, registry));
    }

    @Override
    public String name() {
        return name;
    }

    @Override
    public Device device() {
        return Device.CPU;
    }

    /** The threads that kernels of this backend share. */
    public Team team() {
        return team;
    }

    @Override
    public String describe() {
        String how = name.equals(SCALAR)
                ? "scalar (the reference: one thread, no vectors)"
                : "cpu, " + Backends.vectorBits() + "-bit vectors, " + team.size()
                        + (team.size() == 1 ? " thread" : " threads");
        return how + ", " + physicalMemory() / (1L << 30) + " GiB memory";
    }

    private static long physicalMemory() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean())
                .getTotalMemorySize();
    }

    @Override
    public <K> K kernels(Class<K> type) {
        Object k = kernels.get(type);
        if (k == null) {
            throw new IllegalStateException("backend " + name + " has no " + type.getSimpleName()
                    + ": the module that implements it is not on the class path");
        }
        return type.cast(k);
    }

    @Override
    public Allocation allocate(long bytes, MemoryUse use) {
        Arena owner = Arena.ofShared();
        held.add(owner);
        ledger.add(use, bytes);
        boolean slab = use == MemoryUse.WEIGHTS || use == MemoryUse.CONSTANTS;
        MemorySegment memory = slab ? slabs.allocate(bytes, owner) : HostMemory.allocate(bytes, owner);
        return new Allocation(memory, bytes, Device.CPU, () -> {
            if (held.remove(owner)) {
                owner.close();
                ledger.add(use, -bytes);
            }
        });
    }

    @Override
    public boolean readsBfloat16() {
        return HOST.readsBfloat16();
    }

    @Override
    public MemoryLedger ledger() {
        return ledger;
    }

    /** {@code VmHWM} of Linux's {@code /proc/self/status}. */
    @Override
    public OptionalLong systemBytes() {
        try (java.util.stream.Stream<String> lines = Files.lines(Path.of("/proc/self/status"))) {
            return lines.filter(l -> l.startsWith("VmHWM:"))
                    .mapToLong(l -> 1024 * Long.parseLong(l.replaceAll("\\D", "")))
                    .findFirst();
        } catch (IOException | UncheckedIOException e) {
            return OptionalLong.empty();
        }
    }

    @Override
    public void upload(Tensor host, Tensor target) {
        target.copyFrom(host);
    }

    @Override
    public void download(Tensor source, Tensor host) {
        host.copyFrom(source);
    }

    @Override
    public Stream openStream() {
        return new Stream(this);
    }

    /** Stops the threads and frees all memory that is still held: its tensors can no longer be read. */
    @Override
    public void close() {
        team.close();
        for (Arena owner : held) {
            if (held.remove(owner)) {
                owner.close();
            }
        }
        slabs.close();
    }
}
