package qlora4j.bench;

import java.util.Arrays;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * A GPU's ceilings, through the same operations as everything else: rows gathered in order, which is a copy, and a large
 * dense product in the compute type.
 */
final class DeviceCeilings {
    private static final int ROWS = 64 << 10;
    private static final int COLUMNS = 8192;
    private static final int PRODUCT = 8192;

    private DeviceCeilings() {
    }

    static Ceilings measure(Backend backend, DType type, double seconds) {
        Ceilings.Builder out = new Ceilings.Builder();
        try (Stream s = backend.openStream()) {
            double copy = copy(out, backend, s, seconds);
            double flops = product(out, backend, s, type, seconds);
            return new Ceilings(copy, copy, flops, out.figures());
        }
    }

    private static double copy(Ceilings.Builder out, Backend backend, Stream s, double seconds) {
        try (Held held = new Held(backend)) {
            Tensor from = held.tensor(MemoryUse.WORKSPACE, DType.F32, ROWS, COLUMNS);
            Tensor to = held.tensor(MemoryUse.WORKSPACE, DType.F32, ROWS, COLUMNS);
            int[] order = new int[ROWS];
            Arrays.setAll(order, i -> i);
            Tensor index = held.ints(order);
            Timing t = Timing.of(() -> DecoderOps.gatherRows(s, from, index, to), s::synchronize, seconds);
            return out.add("ceiling.copy", "copy memory", 0, t, 2.0 * from.bytes(),
                    "GB/s", 1e9);
        }
    }

    private static double product(Ceilings.Builder out, Backend backend, Stream s, DType type, double seconds) {
        try (Held held = new Held(backend);
                RandomPool pool = new RandomPool(backend, type, (long) PRODUCT * PRODUCT, 1, 1)) {
            Tensor x = pool.slice(PRODUCT, PRODUCT);
            Tensor w = pool.slice(PRODUCT, PRODUCT);
            Tensor y = held.tensor(MemoryUse.WORKSPACE, type, PRODUCT, PRODUCT);
            Timing t = Timing.of(() -> Matmul.nt(s, x, w, 1, y, false), s::synchronize, seconds);
            return out.add("ceiling.flops", "dense product " + type + ", " + PRODUCT + " cubed", 0, t,
                    Work.product(PRODUCT, PRODUCT, PRODUCT), "GFLOP/s", 1e9);
        }
    }
}
