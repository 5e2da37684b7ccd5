package qlora4j.verify.vectors;

import java.util.List;
import java.util.Map;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Tensor;

/**
 * One operation of the specification on fixed inputs. Its tensors are named {@code NAME.in.X} and {@code NAME.Y}; the
 * maps here have the short names X and Y.
 */
interface Operation {
    /** Such as {@code quantize.normal}. */
    String name();

    /** The section of the specification that describes it. */
    String section();

    /** Numbers that it needs beside the tensors, such as {@code alpha}. */
    default Map<String, Object> parameters() {
        return Map.of();
    }

    /** Its inputs by short name: host tensors, the same at every call. */
    Map<String, Tensor> inputs();

    /** Its outputs in the order in which they are computed. */
    List<Output> outputs();

    /** Its outputs by short name as a backend's kernels compute them: host tensors. */
    Map<String, Tensor> compute(Backend backend);

    /**
     * Its outputs by short name, computed from the definition with one mistake in it, by code of its own.
     *
     * @param fault the mistake; null for none, which gives what {@link #compute} does within the outputs' limits
     */
    Map<String, Tensor> compute(Fault fault);

    /**
     * The operation to judge {@code theirs} by: where a specified freedom, such as the order of a sum, decides what follows
     * from an output, the one that goes on from their output.
     *
     * @param theirs the other implementation's outputs by short name, those that it has
     */
    default Operation goingOnFrom(Map<String, Tensor> theirs) {
        return this;
    }

    /**
     * An output.
     *
     * @param name its short name
     * @param limit the largest difference allowed; 0 for the same bits
     * @param goOn whether what follows is judged by {@link #goingOnFrom} this output of theirs, once it is within its limit
     * @param after the outputs that it is computed from: where one of them differs, so may this
     */
    record Output(String name, double limit, boolean goOn, List<String> after) {
        Output(String name, double limit) {
            this(name, limit, false, List.of());
        }

        static Output exact(String name, String... after) {
            return new Output(name, 0, false, List.of(after));
        }

        /** The same, computed from these outputs. */
        Output after(String... names) {
            return new Output(name, limit, goOn, List.of(names));
        }

        boolean isExact() {
            return limit == 0;
        }
    }
}
