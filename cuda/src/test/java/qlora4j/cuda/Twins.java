package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** Runs an operation on the scalar backend and on a GPU with the same inputs and compares what comes out. */
final class Twins implements AutoCloseable {
    static final double EPSILON = 0x1p-23;
    /** A bfloat16's distance to its neighbour, relative to it, at most. */
    static final double BF16_EPSILON = 0x1p-7;

    /** An operation from inputs to outputs, which it makes with {@link Run}. */
    interface Operation {
        Tensor[] run(Run run);
    }

    /** One run of an operation on one backend. */
    static final class Run {
        final Stream s;
        private final Backend backend;

        private Run(Stream s) {
            this.s = s;
            this.backend = s.backend();
        }

        /** A copy of {@code host} on the device. */
        Tensor in(Tensor host) {
            return backend.device().isHost()
                    ? Tensor.zeros(host.dtype(), host.shape()).copyFrom(host)
                    : Gpu.device(backend, host);
        }

        Tensor ints(int... values) {
            return in(Tensor.of(values, values.length));
        }

        /** An output full of NaN. */
        Tensor out(DType type, long... shape) {
            return backend.device().isHost()
                    ? Tensor.zeros(type, shape).fill(Double.NaN)
                    : Gpu.poisoned(backend, type, shape);
        }
    }

    final Backend scalar = Backends.open(Backend.SCALAR);
    final CudaBackend cuda = Gpu.open();

    /** Twins whose GPU is opened while a system property, which was not set before, has this value. */
    static Twins with(String property, String value) {
        System.setProperty(property, value);
        try {
            return new Twins();
        } finally {
            System.clearProperty(property);
        }
    }

    /** The outputs of both, as host tensors: {@code [0]} the scalar backend's, {@code [1]} the GPU's. */
    Tensor[][] run(Operation operation) {
        return new Tensor[][]{onScalar(operation), onGpu(operation)};
    }

    /** The outputs of an operation on the scalar backend alone. */
    Tensor[] onScalar(Operation operation) {
        try (Stream s = scalar.openStream()) {
            return operation.run(new Run(s));
        }
    }

    /** The outputs of an operation on the GPU alone, as host tensors. */
    Tensor[] onGpu(Operation operation) {
        try (Stream s = cuda.openStream()) {
            Tensor[] outputs = operation.run(new Run(s));
            for (int t = 0; t < outputs.length; t++) {
                outputs[t] = Gpu.host(cuda, outputs[t]);
            }
            return outputs;
        }
    }

    /**
     * Outputs agree within a few roundings of each of the terms summed: {@code 4·√n·ε·magnitude} for n terms of both
     * signs, as in the tests of the vector kernels; a bfloat16 result within {@code spacings} of its neighbours more.
     */
    void close(Operation operation, int terms, double magnitude, int spacings) {
        Tensor[][] both = run(operation);
        for (int t = 0; t < both[0].length; t++) {
            double ulp = both[0][t].dtype() == DType.BF16 ? spacings * BF16_EPSILON : 0;
            for (long i = 0; i < both[0][t].size(); i++) {
                double e = both[0][t].get(i);
                double a = both[1][t].get(i);
                assertThat(e).as("the reference writes output %d, element %d", t, i).isFinite();
                double bound = 4 * Math.sqrt(terms) * EPSILON * Math.max(magnitude, Math.abs(e)) + ulp * Math.abs(e);
                assertThat(Math.abs(a - e)).as("output %d, element %d: %s and %s", t, i, a, e)
                        .isLessThanOrEqualTo(bound);
            }
        }
    }

    /** Outputs of {@link #run} agree within {@code relative} of the sums of magnitudes. */
    static void within(Tensor[][] both, Tensor[] magnitude, double relative) {
        for (int t = 0; t < both[0].length; t++) {
            for (long i = 0; i < both[0][t].size(); i++) {
                double e = both[0][t].get(i);
                double a = both[1][t].get(i);
                assertThat(e).as("the reference writes output %d, element %d", t, i).isFinite();
                assertThat(Math.abs(a - e)).as("output %d, element %d: %s and %s", t, i, a, e)
                        .isLessThanOrEqualTo(relative * magnitude[t].get(i));
            }
        }
    }

    /** Outputs are the same bits, any NaN like any other. */
    void identical(Operation operation) {
        Tensor[][] both = run(operation);
        for (int t = 0; t < both[0].length; t++) {
            for (long i = 0; i < both[0][t].size(); i++) {
                double e = both[0][t].get(i);
                double a = both[1][t].get(i);
                assertThat(Double.doubleToLongBits(a)).as("output %d, element %d: %s and %s", t, i, a, e)
                        .isEqualTo(Double.doubleToLongBits(e));
            }
        }
    }

    @Override
    public void close() {
        scalar.close();
        cuda.close();
    }
}
