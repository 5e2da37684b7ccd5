package qlora4j.tensor;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * The trainable parameters of one training run: one flat buffer of values and one of gradients, with a view of each
 * per named tensor. The optimizer, clipping and pages work on ranges of the flat buffers; layers work on the views.
 *
 * <p>Parameters of one group (the same weight decay and learning-rate scale) lie together, groups in the order of their
 * first parameter, parameters in the order of {@link Builder#add}. Each tensor starts at a multiple of
 * {@link #ALIGNMENT} elements, so that blocks of 8-bit states never cross tensors; the elements between two tensors are padding. Padding is zero, its gradient is
 * zero, and every optimizer here maps a zero parameter with zero gradient and zero state to zero, so it stays so.
 */
public final class ParameterStore implements AutoCloseable {
    /** Elements to whose multiples tensors are aligned in the flat buffers. */
    public static final long ALIGNMENT = 256;
    /** The group of parameters that were added without one. */
    public static final String DEFAULT_GROUP = "default";

    /**
     * One named tensor.
     *
     * @param name its full name, unique in the store
     * @param group the group whose hyper-parameters it takes
     * @param offset of its first element in the flat buffers
     * @param value a view of the flat values
     * @param grad a view of the flat gradients, or null in a store without gradients
     */
    public record Parameter(String name, String group, long offset, Tensor value, Tensor grad) {
    }

    /** The elements {@code from} (inclusive) to {@code to} (exclusive) of the flat buffers, all of one group. */
    public record Range(String group, long from, long to) {
        public long size() {
            return to - from;
        }
    }

    private record Declared(String name, String group, long[] shape) {
    }

    /** Collects names and shapes. */
    public static final class Builder {
        private final DType dtype;
        private final Map<String, Declared> declared = new LinkedHashMap<>();
        private MemoryUse use = MemoryUse.ADAPTERS;
        private boolean gradients = true;

        private Builder(DType dtype) {
            this.dtype = dtype;
        }

        /** Adds a parameter to {@link #DEFAULT_GROUP}. */
        public Builder add(String name, long... shape) {
            return addTo(DEFAULT_GROUP, name, shape);
        }

        /** Adds a parameter to a group. */
        public Builder addTo(String group, String name, long... shape) {
            if (Tensor.elements(shape) == 0) {
                throw new IllegalArgumentException("parameter " + name + " has no elements: "
                        + Arrays.toString(shape));
            }
            if (declared.putIfAbsent(name, new Declared(name, group, shape.clone())) != null) {
                throw new IllegalArgumentException("two trainable parameters are named " + name);
            }
            return this;
        }

        /** What the values are counted as; {@link MemoryUse#ADAPTERS} unless said. */
        public Builder countedAs(MemoryUse valueUse) {
            this.use = valueUse;
            return this;
        }

        /** Leaves the gradient buffer out, for adapters that are only run. */
        public Builder withoutGradients() {
            gradients = false;
            return this;
        }

        /** Allocates the buffers, zeroed, on {@code backend}. */
        public ParameterStore build(Backend backend) {
            return new ParameterStore(this, backend);
        }
    }

    private final Map<String, Parameter> byName = new LinkedHashMap<>();
    private final List<Range> ranges = new ArrayList<>();
    private final Allocation valueMemory;
    private final Allocation gradMemory;
    private final Tensor values;
    private final Tensor grads;
    private final long count;

    private ParameterStore(Builder b, Backend backend) {
        Map<String, List<Declared>> groups = new LinkedHashMap<>();
        b.declared.values().forEach(d -> groups.computeIfAbsent(d.group, g -> new ArrayList<>()).add(d));
        Map<String, Long> offsets = new LinkedHashMap<>();
        long end = 0;
        long elements = 0;
        for (Map.Entry<String, List<Declared>> g : groups.entrySet()) {
            long from = end;
            for (Declared d : g.getValue()) {
                offsets.put(d.name, end);
                long n = Tensor.elements(d.shape);
                elements += n;
                end = Math.addExact(end, Math.ceilDiv(n, ALIGNMENT) * ALIGNMENT);
            }
            ranges.add(new Range(g.getKey(), from, end));
        }
        count = elements;
        valueMemory = backend.allocate(Math.max(1, b.dtype.bytes(end)), b.use);
        values = valueMemory.tensor(0, b.dtype, end);
        gradMemory = b.gradients ? backend.allocate(Math.max(1, b.dtype.bytes(end)), MemoryUse.GRADIENTS) : null;
        grads = b.gradients ? gradMemory.tensor(0, b.dtype, end) : null;
        for (Declared d : b.declared.values()) {
            long at = offsets.get(d.name);
            byName.put(d.name, new Parameter(d.name, d.group, at, values.slice(at, d.shape),
                    grads == null ? null : grads.slice(at, d.shape)));
        }
    }

    /** Starts a store of float32 parameters. */
    public static Builder builder() {
        return builder(DType.F32);
    }

    /** Starts a store of {@code dtype} parameters: float32, or float64 for finite differences. */
    public static Builder builder(DType dtype) {
        if (dtype != DType.F32 && dtype != DType.F64) {
            throw new IllegalArgumentException("trainable parameters are F32 or F64, not " + dtype);
        }
        return new Builder(dtype);
    }

    /** The parameter called {@code name}; an error when there is none. */
    public Parameter get(String name) {
        Parameter p = byName.get(name);
        if (p == null) {
            throw new IllegalArgumentException("there is no trainable parameter " + name + " among "
                    + byName.size() + (byName.isEmpty() ? "" : " (the first is " + names().getFirst() + ")"));
        }
        return p;
    }

    public boolean contains(String name) {
        return byName.containsKey(name);
    }

    /** The values of a parameter, a view of {@link #flatParams}. */
    public Tensor param(String name) {
        return get(name).value;
    }

    /** The gradient of a parameter, a view of {@link #flatGrads}. */
    public Tensor grad(String name) {
        Parameter p = get(name);
        checkGradients();
        return p.grad;
    }

    /** The first element of a parameter in the flat buffers. */
    public long offset(String name) {
        return get(name).offset;
    }

    /** All names in the order they were added. */
    public List<String> names() {
        return List.copyOf(byName.keySet());
    }

    /** All parameters in the order they were added. */
    public List<Parameter> all() {
        return List.copyOf(byName.values());
    }

    /** One range a group; together they cover the flat buffers in order. */
    public List<Range> ranges() {
        return List.copyOf(ranges);
    }

    /** All values, padding included: {@code [flatSize]}. */
    public Tensor flatParams() {
        return values;
    }

    /** All gradients, padding included: {@code [flatSize]}. */
    public Tensor flatGrads() {
        checkGradients();
        return grads;
    }

    /** Elements of a flat buffer, padding included. */
    public long flatSize() {
        return values.size();
    }

    /** Trainable parameters, padding not counted. */
    public long parameters() {
        return count;
    }

    public DType dtype() {
        return values.dtype();
    }

    /** Enqueues the zeroing of all gradients. */
    public void zeroGrads(Stream stream) {
        checkGradients();
        stream.zero(grads);
    }

    private void checkGradients() {
        if (grads == null) {
            throw new IllegalStateException("these parameters were built without gradients");
        }
    }

    /** Frees both buffers. */
    @Override
    public void close() {
        valueMemory.close();
        if (gradMemory != null) {
            gradMemory.close();
        }
    }
}
