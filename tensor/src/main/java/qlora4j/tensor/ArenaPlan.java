package qlora4j.tensor;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import java.util.function.Consumer;

/**
 * The memory layout of one step: which intermediate tensor lies where in one arena. It is made by running the step once
 * on the plan device, where kernels do nothing, and packing the recorded lifetimes: largest first, each at the lowest
 * offset that is free during its whole life. A tensor that is never released keeps its place to the end of the step.
 *
 * <p>A plan made for the largest shapes of a job serves its smaller steps too: they take the same tensors in the same
 * order, with fewer elements.
 */
public final class ArenaPlan {
    /** Tensors start at multiples of this many bytes. */
    public static final int ALIGNMENT = 64;

    private record Slot(DType dtype, long[] shape, long bytes, int born, int died, long offset) {
    }

    private final Slot[] slots;
    private final long bytes;
    private Allocation boundTo;
    private Tensor[] bound;

    private ArenaPlan(Slot[] slots, long bytes) {
        this.slots = slots;
        this.bytes = bytes;
    }

    /** Records {@code step}, which must take and release in the same order whenever the shapes are the same. */
    public static ArenaPlan of(Consumer<Stream> step) {
        try (PlanBackend backend = new PlanBackend()) {
            Recorder recorder = new Recorder(backend);
            step.accept(recorder);
            return layOut(recorder.finish());
        }
    }

    /** Bytes of the arena: the peak of the step's intermediate memory under this layout. */
    public long bytes() {
        return bytes;
    }

    /** The number of tensors taken in the step. */
    public int tensors() {
        return slots.length;
    }

    /** The least memory any layout could need: the largest sum of bytes alive at once. */
    public long lowerBound() {
        long[] delta = new long[Arrays.stream(slots).mapToInt(Slot::died).max().orElse(0) + 2];
        for (Slot s : slots) {
            delta[s.born] += s.bytes;
            delta[s.died] -= s.bytes;
        }
        long now = 0;
        long most = 0;
        for (long d : delta) {
            now += d;
            most = Math.max(most, now);
        }
        return most;
    }

    private static ArenaPlan layOut(List<Slot> recorded) {
        Integer[] order = new Integer[recorded.size()];
        Arrays.setAll(order, i -> i);
        Arrays.sort(order, Comparator.<Integer>comparingLong(i -> -recorded.get(i).bytes).thenComparingInt(i -> i));
        Slot[] placed = new Slot[recorded.size()];
        List<Slot> byOffset = new ArrayList<>();
        long end = 0;
        for (int i : order) {
            Slot s = recorded.get(i);
            long offset = 0;
            for (Slot other : byOffset) {
                boolean together = other.born < s.died && s.born < other.died;
                if (together && offset < other.offset + other.bytes) {
                    if (offset + s.bytes <= other.offset) {
                        break;
                    }
                    offset = other.offset + other.bytes;
                }
            }
            placed[i] = new Slot(s.dtype, s.shape, s.bytes, s.born, s.died, offset);
            int at = 0;
            while (at < byOffset.size() && byOffset.get(at).offset <= offset) {
                at++;
            }
            byOffset.add(at, placed[i]);
            end = Math.max(end, offset + s.bytes);
        }
        return new ArenaPlan(placed, end);
    }

    Cursor cursor(Allocation arena) {
        if (boundTo != arena) {
            if (arena.bytes() < bytes) {
                throw new IllegalArgumentException("the step needs an arena of " + bytes + " bytes, this one has "
                        + arena.bytes());
            }
            bound = new Tensor[slots.length];
            Arrays.setAll(bound, i -> arena.tensor(slots[i].offset, slots[i].dtype, slots[i].shape));
            boundTo = arena;
        }
        return new Cursor();
    }

    /** Walks through the plan as a step takes its tensors. */
    final class Cursor {
        private int next;

        Tensor take(DType dtype, long... shape) {
            Slot slot = next < slots.length ? slots[next] : null;
            if (slot == null || slot.dtype != dtype || dtype.bytes(Tensor.elements(shape)) > slot.bytes) {
                throw new IllegalStateException("the step does not follow its plan: tensor " + next + " is " + dtype
                        + Arrays.toString(shape) + ", planned was "
                        + (slot == null ? "none" : slot.dtype + Arrays.toString(slot.shape)));
            }
            if (!bound[next].hasShape(shape)) {
                bound[next] = boundTo.tensor(slot.offset, dtype, shape);
            }
            return bound[next++];
        }

        void release(Tensor tensor) {
            // Lifetimes are the plan's; a tensor that is not of the plan would be a leak elsewhere.
        }

        void checkDone() {
            if (next != slots.length) {
                throw new IllegalStateException("the step ended after " + next + " of " + slots.length
                        + " planned tensors");
            }
        }
    }

    /** The stream on which a plan is recorded. */
    private static final class Recorder extends Stream {
        private final Map<Tensor, Integer> live = new IdentityHashMap<>();
        private final List<Slot> slots = new ArrayList<>();
        private int clock;

        Recorder(PlanBackend backend) {
            super(backend);
        }

        @Override
        public Tensor take(DType dtype, long... shape) {
            Tensor t = Tensor.shapeOnly(dtype, shape);
            long size = Math.max(1, t.bytes());
            live.put(t, slots.size());
            slots.add(new Slot(dtype, shape.clone(), (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT, clock++, -1, -1));
            return t;
        }

        @Override
        public void release(Tensor tensor) {
            if (tensor == null) {
                return;
            }
            Integer i = live.remove(tensor);
            if (i == null) {
                throw new IllegalStateException(tensor + " was not taken in this step, or was released before");
            }
            Slot s = slots.get(i);
            slots.set(i, new Slot(s.dtype, s.shape, s.bytes, s.born, clock++, -1));
        }

        List<Slot> finish() {
            live.forEach((t, i) -> {
                Slot s = slots.get(i);
                slots.set(i, new Slot(s.dtype, s.shape, s.bytes, s.born, clock, -1));
            });
            return slots;
        }
    }
}
