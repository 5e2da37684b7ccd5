package qlora4j.tensor;

import java.util.Objects;

/**
 * A queue of work on one device, with the arena that its intermediate tensors come from. Every operation of the
 * project takes a stream as its first argument. On the CPU a call has run when it returns; on a GPU it is enqueued, and
 * only {@link Backend#download} and {@link #synchronize} wait.
 *
 * <p>Intermediate tensors are asked for with {@link #take} and given back with {@link #release}, in an order that
 * depends on shapes alone. Under an {@link ArenaPlan} ({@link #begin}) the n-th {@code take} gets the n-th tensor that
 * the plan laid out, so that a planned step allocates nothing; without one, each is an allocation of its own.
 *
 * <p>A stream belongs to one thread at a time.
 */
public class Stream implements AutoCloseable {
    private final Backend backend;
    private ArenaPlan.Cursor cursor;
    private final java.util.IdentityHashMap<Tensor, Allocation> loose = new java.util.IdentityHashMap<>();

    protected Stream(Backend backend) {
        this.backend = backend;
    }

    public final Backend backend() {
        return backend;
    }

    public final Device device() {
        return backend.device();
    }

    /** Whether this stream records shapes and computes nothing. */
    public final boolean isPlan() {
        return backend.device().equals(Device.PLAN);
    }

    public final <K> K kernels(Class<K> kernelInterface) {
        return backend.kernels(kernelInterface);
    }

    /** An intermediate tensor with undefined contents. */
    public Tensor take(DType dtype, long... shape) {
        if (cursor != null) {
            return cursor.take(dtype, shape);
        }
        Allocation memory = borrow(Math.max(1, dtype.bytes(Tensor.elements(shape))));
        Tensor t = memory.tensor(0, dtype, shape);
        loose.put(t, memory);
        return t;
    }

    /** Gives tensors of {@link #take} back; null entries are passed over. */
    public void release(Tensor... tensors) {
        for (Tensor t : tensors) {
            release(t);
        }
    }

    /** Gives a tensor of {@link #take} back; null is passed over. */
    public void release(Tensor tensor) {
        if (tensor == null) {
            return;
        }
        if (cursor != null) {
            cursor.release(tensor);
            return;
        }
        Allocation memory = loose.remove(tensor);
        if (memory == null) {
            throw new IllegalStateException(tensor + " was not taken from this stream, or was released before");
        }
        giveBack(memory);
    }

    /** Memory of at least {@code bytes} for a tensor that no plan has a place for. */
    protected Allocation borrow(long bytes) {
        return backend.allocate(bytes, MemoryUse.ACTIVATIONS);
    }

    /** Takes back what {@link #borrow} gave; the work that uses it may only be enqueued. */
    protected void giveBack(Allocation memory) {
        synchronize();
        memory.close();
    }

    /** Starts a step that takes and releases exactly as {@code plan} recorded; {@link #end} checks that it did. */
    public final void begin(ArenaPlan plan, Allocation arena) {
        if (cursor != null) {
            throw new IllegalStateException("a planned step is already under way on this stream");
        }
        cursor = Objects.requireNonNull(plan).cursor(arena);
    }

    /** Ends the step that {@link #begin} started. */
    public final void end() {
        ArenaPlan.Cursor c = cursor;
        cursor = null;
        c.checkDone();
    }

    /** Forgets a planned step that failed half-way. */
    public final void abandon() {
        cursor = null;
    }

    /** Copies host ints to {@code target} (int32, same size); on the plan device nothing. */
    public final void upload(int[] values, Tensor target) {
        if (!isPlan()) {
            backend.upload(Tensor.of(values, values.length), target.view(target.size()));
        }
    }

    /** Sets all bytes of a tensor of this device to zero. A device stream overrides it; on the plan device nothing. */
    public void zero(Tensor tensor) {
        if (device().isHost()) {
            tensor.data().fill((byte) 0);
        } else if (!isPlan()) {
            throw new UnsupportedOperationException(getClass().getName() + " cannot zero a tensor on " + device());
        }
    }

    /** Whether {@link #record} works here. */
    public boolean records() {
        return false;
    }

    /**
     * Records what {@code step} enqueues, without running it, to be enqueued again and again in one call (a CUDA graph).
     * The step must follow a plan, must have run before, and must neither upload nor read anything: what changes from
     * one run to the next lies in tensors.
     */
    public Recording record(Runnable step) {
        throw new UnsupportedOperationException("the " + backend.name() + " backend cannot record a step");
    }

    /** A recorded step. */
    public interface Recording extends AutoCloseable {
        /** Enqueues the step. */
        void replay();

        @Override
        void close();
    }

    /** Waits for everything enqueued so far. */
    public void synchronize() {
    }

    @Override
    public void close() {
        loose.values().forEach(Allocation::close);
        loose.clear();
    }
}
