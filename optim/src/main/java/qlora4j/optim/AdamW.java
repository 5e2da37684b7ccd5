package qlora4j.optim;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Function;
import qlora4j.tensor.Allocation;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * AdamW over the parameters of a {@link ParameterStore}, with paged states. A step is:
 *
 * <pre>
 * adam.prepare(learningRate, gradScale);   // counts the step, writes its scalars to the device
 * adam.clip(stream, maxGradNorm);          // enqueues norm and clipping factor
 * adam.update(stream);                     // enqueues the update, page by page
 * adam.gradNorm();                         // optional: waits and reads
 * </pre>
 *
 * <p>{@code clip} and {@code update} enqueue the same work every step, so they may be captured and replayed where all
 * states are resident.
 */
public final class AdamW implements AutoCloseable {
    /** The states' names, as PyTorch has them. */
    public static final List<String> STATES = List.of("exp_avg", "exp_avg_sq");

    /** The states' names with moments in 8 bits, as bitsandbytes has them: codes, then the blocks' constants. */
    public static final List<String> STATES_8BIT = List.of("state1", "state2", "absmax1", "absmax2");

    private record Span(int part, AdamHyper hyper, Tensor params, Tensor grads, Tensor[] states) {
    }

    private final Backend backend;
    private final ParameterStore store;
    private final PagedStates states;
    private final List<Span> spans = new ArrayList<>();
    private final AdamHyper first;
    private final Allocation scalarMemory;
    private final Tensor scalars;
    private final Tensor written;
    private final Tensor staging = Tensor.zeros(DType.F64, OptimScalars.WRITTEN);
    private long step;
    private boolean clipped;

    /**
     * An optimizer at step 0.
     *
     * @param hyperOfGroup the hyper-parameters of the groups of {@code store}; a group that is not named has those of
     *     {@link ParameterStore#DEFAULT_GROUP}; formula and betas are the same in all
     * @param residency how much of the states may stay on the device
     * @param spill where the rest goes; may be null with {@link Residency#ALL}
     */
    public AdamW(Backend backend, ParameterStore store, Map<String, AdamHyper> hyperOfGroup, Residency residency,
            PageStore.Factory spill) {
        this(backend, store, hyperOfGroup, b -> new PagedStates(b, kinds(eightBit(hyperOfGroup), store.dtype()),
                store.flatSize(), residency, spill));
    }

    private static boolean eightBit(Map<String, AdamHyper> hyperOfGroup) {
        return hyperOfGroup.values().stream().anyMatch(AdamHyper::eightBit);
    }

    private static List<PagedStates.State> kinds(boolean eightBit, DType dtype) {
        int block = EightBitKernels.BLOCK;
        return eightBit
                ? List.of(new PagedStates.State(STATES_8BIT.get(0), DType.U8, 1),
                        new PagedStates.State(STATES_8BIT.get(1), DType.U8, 1),
                        new PagedStates.State(STATES_8BIT.get(2), DType.F32, block),
                        new PagedStates.State(STATES_8BIT.get(3), DType.F32, block))
                : STATES.stream().map(n -> new PagedStates.State(n, dtype, 1)).toList();
    }

    /** Bytes of the states of {@code elements} elements of a store of {@code dtype}. */
    public static long stateBytes(AdamHyper hyper, DType dtype, long elements) {
        return kinds(hyper.eightBit(), dtype).stream()
                .mapToLong(k -> k.dtype().bytes(Math.ceilDiv(elements, (long) k.per()))).sum();
    }

    AdamW(Backend backend, ParameterStore store, Map<String, AdamHyper> hyperOfGroup,
            Function<Backend, PagedStates> openStates) {
        if (store.ranges().isEmpty()) {
            throw new IllegalArgumentException("there are no trainable parameters");
        }
        for (ParameterStore.Range r : store.ranges()) {
            if (of(hyperOfGroup, r) == null) {
                throw new IllegalArgumentException("parameter group " + r.group() + " has no hyper-parameters");
            }
        }
        this.backend = backend;
        this.store = store;
        this.first = of(hyperOfGroup, store.ranges().getFirst());
        for (AdamHyper h : hyperOfGroup.values()) {
            if (h.formula() != first.formula() || h.beta1() != first.beta1() || h.beta2() != first.beta2()
                    || h.eightBit() != first.eightBit()) {
                throw new IllegalArgumentException("all groups must have the same formula, betas and states: "
                        + first + ", " + h);
            }
        }
        if (first.eightBit() && store.dtype() != DType.F32) {
            throw new IllegalArgumentException("8-bit AdamW is for float32 parameters, not " + store.dtype());
        }
        this.states = openStates.apply(backend);
        scalarMemory = backend.allocate(DType.F64.bytes(OptimScalars.SIZE), MemoryUse.OPTIMIZER);
        scalars = scalarMemory.tensor(0, DType.F64, OptimScalars.SIZE);
        written = scalars.slice(0, OptimScalars.WRITTEN);
        for (int part = 0; part < states.parts(); part++) {
            for (ParameterStore.Range r : store.ranges()) {
                addSpan(part, r, of(hyperOfGroup, r));
            }
        }
    }

    private static AdamHyper of(Map<String, AdamHyper> hyperOfGroup, ParameterStore.Range range) {
        return hyperOfGroup.getOrDefault(range.group(), hyperOfGroup.get(ParameterStore.DEFAULT_GROUP));
    }

    private void addSpan(int part, ParameterStore.Range range, AdamHyper hyper) {
        long from = Math.max(range.from(), states.from(part));
        long n = Math.min(range.to(), states.to(part)) - from;
        if (n > 0) {
            long at = from - states.from(part);
            int block = EightBitKernels.BLOCK;
            Tensor[] own = new Tensor[states.names().size()];
            for (int i = 0; i < own.length; i++) {
                own[i] = i < 2 ? states.view(part, i).slice(at, n)
                        : states.view(part, i).slice(at / block, Math.ceilDiv(n, (long) block));
            }
            spans.add(new Span(part, hyper, store.flatParams().slice(from, n), store.flatGrads().slice(from, n), own));
        }
    }

    /**
     * Counts a step and writes its scalars.
     *
     * @param learningRate of this step, at least 0
     * @param gradScale what gradients are multiplied by, such as one over the tokens they were summed over; else 1
     */
    public void prepare(double learningRate, double gradScale) {
        if (!(learningRate >= 0 && learningRate < Double.POSITIVE_INFINITY)) {
            throw new IllegalArgumentException("learning rate " + learningRate + ": must be finite and at least 0");
        }
        if (!(gradScale > 0 && gradScale < Double.POSITIVE_INFINITY)) {
            throw new IllegalArgumentException("gradient scale " + gradScale + ": must be finite and more than 0");
        }
        step++;
        staging.set(OptimScalars.LEARNING_RATE, learningRate);
        staging.set(OptimScalars.CORRECTION1, correction(first.beta1()));
        staging.set(OptimScalars.CORRECTION2, Math.sqrt(correction(first.beta2())));
        staging.set(OptimScalars.GRAD_SCALE, gradScale);
        backend.upload(staging, written);
    }

    /** {@code 1 - beta^step}; in float32 steps for bitsandbytes, which computes {@code 1.0f - powf(beta, step)}. */
    private double correction(double beta) {
        if (first.formula() == AdamHyper.Formula.BITSANDBYTES && store.dtype() == DType.F32) {
            return 1f - (float) StrictMath.pow((float) beta, step);
        }
        return 1 - StrictMath.pow(beta, step);
    }

    /**
     * Enqueues the gradients' norm and the clipping factor. Called in every step, also without clipping.
     *
     * @param maxNorm more than 0; +infinity for no clipping
     */
    public void clip(Stream stream, double maxNorm) {
        Optim.clip(stream, store.flatGrads(), maxNorm, scalars);
        clipped = true;
    }

    /** Enqueues the update of all parameters and states. The gradients are read and left as they are. */
    public void update(Stream stream) {
        if (!clipped) {
            throw new IllegalStateException("clip comes before update: it computes the gradients' factor");
        }
        clipped = false;
        int next = 0;
        for (int part = 0; part < states.parts(); part++) {
            states.acquire(part);
            for (; next < spans.size() && spans.get(next).part == part; next++) {
                Span s = spans.get(next);
                if (s.hyper.eightBit()) {
                    Optim.adamW8(stream, s.hyper, s.params, s.grads, s.states[0], s.states[1], s.states[2],
                            s.states[3], scalars);
                } else {
                    Optim.adamW(stream, s.hyper, s.params, s.grads, s.states[0], s.states[1], scalars);
                }
            }
            states.release(part, true);
        }
    }

    /** The norm of the scaled gradients before clipping, of the last step; waits for it. */
    public double gradNorm() {
        Tensor host = Tensor.zeros(DType.F64, 1);
        backend.download(scalars.slice(OptimScalars.GRAD_NORM, 1), host);
        return host.get(0);
    }

    /** Steps taken. */
    public long step() {
        return step;
    }

    /** Continues after {@code taken} steps; the states are set with {@link PagedStates#write}. */
    public void resumeAt(long taken) {
        if (taken < 0) {
            throw new IllegalArgumentException("a checkpoint at step " + taken);
        }
        step = taken;
    }

    /** The states by their index in {@link #STATES}, over the elements of the store's flat buffers. */
    public PagedStates states() {
        return states;
    }

    /** Frees states and scalars, not the parameters. */
    @Override
    public void close() {
        states.close();
        scalarMemory.close();
    }
}
