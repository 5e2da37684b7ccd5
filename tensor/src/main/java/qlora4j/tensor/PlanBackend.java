package qlora4j.tensor;

import java.lang.foreign.MemorySegment;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.HashMap;
import java.util.Map;

/**
 * The shape-only backend: no memory, and kernels that do nothing. Running a step on it records what the step would
 * allocate; see {@link ArenaPlan}. Allocations are counted in the ledger, which makes it the answer of {@code plan}.
 */
public final class PlanBackend implements Backend {
    private final MemoryLedger ledger = new MemoryLedger();
    private final Map<Class<?>, Object> kernels = new HashMap<>();
    private final Footprint like;

    /** Plans for no backend in particular. */
    public PlanBackend() {
        this(Footprint.HOST);
    }

    /** Plans what {@code like} would hold. */
    public PlanBackend(Footprint like) {
        this.like = like;
    }

    @Override
    public String name() {
        return PLAN;
    }

    @Override
    public Device device() {
        return Device.PLAN;
    }

    @Override
    public String describe() {
        return "plan (shapes only)";
    }

    @Override
    public <K> K kernels(Class<K> type) {
        return type.cast(kernels.computeIfAbsent(type, PlanBackend::noOperation));
    }

    private static Object noOperation(Class<?> type) {
        for (Method m : type.getMethods()) {
            if (m.getReturnType() != void.class && !m.isDefault()) {
                throw new IllegalArgumentException(
                        "kernel method " + m + " returns a value: results belong in tensors");
            }
        }
        return Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[]{type}, (proxy, method, arguments) -> null);
    }

    @Override
    public Allocation allocate(long bytes, MemoryUse use) {
        ledger.add(use, bytes);
        return new Allocation(MemorySegment.NULL, bytes, Device.PLAN, () -> ledger.add(use, -bytes));
    }

    @Override
    public boolean readsBfloat16() {
        return like.readsBfloat16();
    }

    @Override
    public boolean isOnHost() {
        return like.isOnHost();
    }

    @Override
    public int logitRows(long vocab) {
        return like.logitRows(vocab);
    }

    @Override
    public long workspaceBytes(Step step) {
        return like.workspaceBytes(step);
    }

    @Override
    public MemoryLedger ledger() {
        return ledger;
    }

    @Override
    public void upload(Tensor host, Tensor target) {
    }

    @Override
    public void download(Tensor source, Tensor host) {
        throw new IllegalStateException("a step that is being planned must not read results");
    }

    @Override
    public Stream openStream() {
        return new Stream(this);
    }

    @Override
    public void close() {
    }
}
