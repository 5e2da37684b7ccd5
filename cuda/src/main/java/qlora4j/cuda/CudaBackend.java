package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.OptionalLong;
import java.util.ServiceLoader;
import java.util.StringJoiner;
import java.util.concurrent.ConcurrentHashMap;
import jcuda.driver.CUdeviceptr;
import jcuda.driver.CUresult;
import jcuda.driver.CUstream;
import jcuda.driver.CUstream_flags;
import jcuda.driver.JCudaDriver;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Device;
import qlora4j.tensor.DeviceMemoryException;
import qlora4j.tensor.HostCopies;
import qlora4j.tensor.KernelProvider;
import qlora4j.tensor.MemoryLedger;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * One NVIDIA GPU. All work goes into one queue of the driver and runs in the order in which it was enqueued, so an
 * upload, a kernel and a download of different streams follow each other as their calls do. Memory is plain device
 * memory, one driver allocation each.
 */
public final class CudaBackend implements Backend {
    private final Device device;
    private final CudaContext context;
    private final CudaModules modules;
    private final Queue queue = new Queue();
    private final Staging staging;
    private final CudaFaults faults;
    private final MemoryLedger ledger = new MemoryLedger();
    private final Map<Long, Long> held = new ConcurrentHashMap<>();
    private final Map<Class<?>, Object> kernels = new HashMap<>();
    private final List<AutoCloseable> closing = new ArrayList<>();
    private final List<String> notes = new ArrayList<>();
    private final Conversion conversion;
    private final CudaProfile profile;
    private Allocation workspace;
    private int overwritten;
    private long predicted;
    private volatile boolean recording;
    private volatile boolean recorded;
    private boolean closed;

    CudaBackend(Device device, CudaContext context) {
        this.device = device;
        this.context = context;
        context.enter();
        modules = new CudaModules(context);
        check(JCudaDriver.cuStreamCreate(queue, CUstream_flags.CU_STREAM_NON_BLOCKING), "cuStreamCreate");
        staging = new Staging(queue);
        profile = Boolean.getBoolean("qlora4j.cuda.profile") ? new CudaProfile(queue) : null;
        faults = new CudaFaults();
        conversion = new Conversion(this);
        KernelProvider.Registry registry = new KernelProvider.Registry() {
            @Override
            public <K> void add(Class<K> type, K implementation) {
                if (kernels.putIfAbsent(type, implementation) != null) {
                    throw new IllegalStateException("two providers of " + type.getName() + " for " + device);
                }
            }
        };
        ServiceLoader.load(KernelProvider.class, CudaBackend.class.getClassLoader())
                .forEach(p -> p.register(this, registry));
    }

    @Override
    public String name() {
        return CUDA;
    }

    @Override
    public Device device() {
        return device;
    }

    CudaContext context() {
        return context;
    }

    CudaModules modules() {
        return modules;
    }

    CUstream queue() {
        return queue;
    }

    /** The driver's handle of the queue, for libraries called by foreign function. */
    long queueAddress() {
        return queue.address();
    }

    /** Where kernels report what they cannot compute with. */
    CudaFaults faults() {
        return faults;
    }

    /**
     * Runs {@code launch}, which enqueues work, under a name by which the profile knows it.
     *
     * @param name a string that exists already: this is called for every launch
     */
    void launch(String name, Runnable launch) {
        if (profile == null || recording) {
            launch.run();
            return;
        }
        profile.begin(name);
        launch.run();
        profile.end();
    }

    /** The profile, or null where none is taken now. */
    CudaProfile profile() {
        return recording ? null : profile;
    }

    /** Adds to {@link #describe}: a library that was found, a variant that was chosen. */
    void note(String note) {
        notes.add(note);
    }

    /** Closes {@code resource} when this backend is closed, before its context is. */
    void closeWithThis(AutoCloseable resource) {
        closing.add(resource);
    }

    @Override
    public String describe() {
        long[] memory = context.memory();
        int capability = context.capability();
        StringBuilder out = new StringBuilder(String.format(Locale.ROOT,
                "%s, %s, compute capability %d.%d, %d multiprocessors, %.1f GB memory, %.1f free", device,
                context.name(), capability / 10, capability % 10, context.multiprocessors(), memory[1] / 1e9,
                memory[0] / 1e9));
        notes.forEach(n -> out.append(", ").append(n));
        return out.toString();
    }

    @Override
    public <K> K kernels(Class<K> type) {
        Object k = kernels.get(type);
        if (k == null) {
            throw new IllegalStateException("backend cuda has no " + type.getSimpleName());
        }
        return type.cast(k);
    }

    @Override
    public Allocation allocate(long bytes, MemoryUse use) {
        if (recording) {
            throw new IllegalStateException("a step that is being recorded asks for " + bytes + " bytes of " + name(use)
                    + ": it must have run before");
        }
        context.enter();
        CUdeviceptr p = new CUdeviceptr();
        int rc = JCudaDriver.cuMemAlloc(p, bytes);
        if (rc == CUresult.CUDA_ERROR_OUT_OF_MEMORY) {
            throw new DeviceMemoryException(noRoom(bytes, use));
        }
        check(rc, "cuMemAlloc of " + bytes + " bytes");
        long address = Address.of(p);
        held.put(address, bytes);
        ledger.add(use, bytes);
        zero(address, bytes);
        return new Allocation(MemorySegment.ofAddress(address).reinterpret(bytes), bytes, device, () -> {
            if (held.remove(address) != null) {
                free(address);
                ledger.add(use, -bytes);
            }
        });
    }

    private void free(long address) {
        await();
        check(JCudaDriver.cuMemFree(Address.device(address)), "cuMemFree");
    }

    private String noRoom(long bytes, MemoryUse use) {
        long[] memory = context.memory();
        StringJoiner uses = new StringJoiner(", ", " (", ")");
        uses.setEmptyValue("");
        for (MemoryUse u : MemoryUse.values()) {
            if (ledger.held(u) > 0) {
                uses.add(name(u) + " " + gb(ledger.held(u)));
            }
        }
        return "--device " + device + ": no room for " + gb(bytes) + " of " + name(use) + ": " + gb(memory[0]) + " of "
                + gb(memory[1]) + " are free, this process holds " + gb(ledger.total()) + uses
                + (predicted > 0 ? ", the job was predicted to hold " + gb(predicted) : "")
                + ". Shorter sequences, a smaller batch, --gradient-checkpointing or --optim-resident 0% need less";
    }

    private static String name(MemoryUse use) {
        return use.name().toLowerCase(Locale.ROOT).replace('_', ' ');
    }

    private static String gb(long bytes) {
        return String.format(Locale.ROOT, bytes < 100_000_000 ? "%.3f GB" : "%.1f GB", bytes / 1e9);
    }

    @Override
    public void predicted(long bytes) {
        predicted = bytes;
    }

    /**
     * The address of scratch memory of at least {@code bytes} that all kernels share: contents live until the next
     * operation. It grows when more is asked for than ever before, which happens in a job's first step and never while
     * a graph is recorded. What it outgrows is freed unless a recorded step may go on using it.
     */
    synchronized long workspace(long bytes) {
        if (bytes > Products.OPERANDS) {
            overwritten++;
        }
        return operands(bytes);
    }

    /** How often the workspace behind {@link Products#OPERANDS} may have been overwritten. */
    int overwritten() {
        return overwritten;
    }

    /** A tensor's codes change: what lies dequantized in the workspace may be of the old ones. */
    synchronized void quantized() {
        overwritten++;
    }

    synchronized long workspaceBytes() {
        return workspace == null ? 0 : workspace.bytes();
    }

    /** As {@link #workspace}, by who knows what of {@link WeightsAhead} lies behind {@link Products#OPERANDS}. */
    synchronized long operands(long bytes) {
        if (workspace == null || workspace.bytes() < bytes) {
            if (workspace != null && !recorded) {
                workspace.close();
            }
            workspace = allocate(bytes, MemoryUse.WORKSPACE);
            overwritten++;
        }
        return workspace.data().address();
    }

    @Override
    public MemoryLedger ledger() {
        return ledger;
    }

    @Override
    public OptionalLong systemBytes() {
        long[] memory = context.memory();
        return OptionalLong.of(memory[1] - memory[0]);
    }

    void zero(long address, long bytes) {
        if (bytes > 0) {
            context.enter();
            check(JCudaDriver.cuMemsetD8Async(Address.device(address), (byte) 0, bytes, queue), "cuMemsetD8Async");
        }
    }

    /** Waits for the queue; an error when a kernel found something wrong in its data. */
    void synchronize() {
        await();
        faults.check();
    }

    private void await() {
        context.enter();
        check(JCudaDriver.cuStreamSynchronize(queue), "cuStreamSynchronize");
    }

    @Override
    public void upload(Tensor host, Tensor target) {
        if (host.size() != target.size()) {
            throw new IllegalArgumentException("copy of " + host + " to " + target);
        }
        context.enter();
        if (host.dtype() == target.dtype()) {
            staging.upload(host.data(), target.data().address());
        } else {
            conversion.upload(host, target, staging);
        }
    }

    @Override
    public void download(Tensor source, Tensor host) {
        if (host.size() != source.size()) {
            throw new IllegalArgumentException("copy of " + source + " to " + host);
        }
        context.enter();
        if (host.dtype() == source.dtype()) {
            staging.download(source.data().address(), host.data());
        } else {
            Tensor same = Tensor.zeros(source.dtype(), source.shape());
            staging.download(source.data().address(), same.data());
            host.copyFrom(same);
        }
        faults.check();
    }

    @Override
    public int logitRows(long vocab) {
        return CudaFootprint.INSTANCE.logitRows(vocab);
    }

    @Override
    public long workspaceBytes(Step step) {
        return CudaFootprint.INSTANCE.workspaceBytes(step);
    }

    @Override
    public HostCopies openHostCopies() {
        return new CudaHostCopies(this);
    }

    boolean recording() {
        return recording;
    }

    /** While a step is recorded nothing may be allocated. */
    void recording(boolean on) {
        recording = on;
        recorded = true;
        // What was enqueued before, or only recorded, is not there when the step is replayed, or now.
        overwritten++;
    }

    @Override
    public Stream openStream() {
        return new CudaStream(this);
    }

    /** Frees all memory that is still held and gives the context up. */
    @Override
    public void close() {
        if (closed) {
            return;
        }
        closed = true;
        await();
        if (profile != null) {
            System.err.print(profile.report());
            profile.close();
        }
        for (AutoCloseable c : closing) {
            close(c);
        }
        for (long address : held.keySet()) {
            if (held.remove(address) != null) {
                free(address);
            }
        }
        staging.close();
        faults.close();
        modules.close();
        check(JCudaDriver.cuStreamDestroy(queue), "cuStreamDestroy");
        context.close();
    }

    private static void close(AutoCloseable c) {
        try {
            c.close();
        } catch (RuntimeException e) {
            throw e;
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }
}
