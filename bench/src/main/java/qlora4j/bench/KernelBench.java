package qlora4j.bench;

import java.util.List;
import java.util.function.Consumer;
import qlora4j.bench.Ceilings.Bound;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.tensor.Backend;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The kernels on one matrix {@code [out, in]} in NF4 with double quantization. Several copies of it are gone round, more
 * bytes than most caches hold, as in a model, where a layer's weights are used once a token.
 */
final class KernelBench {
    private static final int MOST_COPIES = 64;
    private static final int[] ROWS = {64, 256, 1024};

    private final Backend backend;
    private final BenchSettings config;
    private final Ceilings ceilings;
    private final int threads;
    private final Consumer<Figure> report;
    private int turn;

    KernelBench(Backend backend, BenchSettings config, Ceilings ceilings, Consumer<Figure> report) {
        this.backend = backend;
        this.config = config;
        this.ceilings = ceilings;
        this.threads = BenchRun.threads(backend);
        this.report = report;
    }

    /** The line above these figures. */
    static String title(BenchSettings config) {
        return "kernels: W [" + config.out() + ", " + config.in() + "] in NF4 with double quantization, "
                + config.typeName();
    }

    void run() {
        long n = (long) config.out() * config.in();
        try (Held held = new Held(backend);
                RandomPool pool = new RandomPool(backend, config.type(), n, 0.02, BenchSettings.SEED);
                Stream s = backend.openStream()) {
            QuantizedTensor[] w = weights(held, n);
            quantize(s, pool, w);
            for (QuantizedTensor each : w) {
                Blockwise.quantize(s, pool.slice(config.out(), config.in()), each);
            }
            dequantize(s, held, w);
            product(s, pool, w, 1);
            for (int rows : ROWS) {
                product(s, pool, w, rows);
                backward(s, pool, w, rows);
            }
        }
    }

    private QuantizedTensor[] weights(Held held, long n) {
        int copies = (int) Math.max(2, Math.min(MOST_COPIES, Math.ceilDiv(config.footprint(), n / 2 + 1)));
        QuantizedTensor[] w = new QuantizedTensor[copies];
        for (int i = 0; i < copies; i++) {
            w[i] = held.quantized(BenchSettings.QUANTIZE, config.type(), config.out(), config.in());
        }
        return w;
    }

    /** Times one operation on a matrix, all matrices in turn; where that is possible, recorded and replayed at once. */
    private Timing time(Stream s, QuantizedTensor[] w, Consumer<QuantizedTensor> operation) {
        if (!s.records()) {
            return Timing.of(() -> operation.accept(next(w)), s::synchronize, config.seconds());
        }
        operation.accept(w[0]);
        try (Stream.Recording all = s.record(() -> List.of(w).forEach(operation))) {
            return Timing.of(all::replay, s::synchronize, config.seconds()).dividedBy(w.length);
        }
    }

    private QuantizedTensor next(QuantizedTensor[] w) {
        turn = (turn + 1) % w.length;
        return w[turn];
    }

    private void quantize(Stream s, RandomPool pool, QuantizedTensor[] w) {
        Tensor x = pool.slice(config.out(), config.in());
        Timing t = time(s, w, each -> Blockwise.quantize(s, x, each));
        report.accept(Figure.rate("quantize", "quantize to NF4 and double quant, bytes read", threads, t,
                x.bytes() / 1e9, "GB/s", x.bytes() + w[0].bytes(), Bound.COPY,
                ceilings.copy()).with("gelem_per_s", x.size() / 1e9 / t.median()));
    }

    private void dequantize(Stream s, Held held, QuantizedTensor[] w) {
        Tensor out = held.tensor(MemoryUse.WORKSPACE, config.type(), config.out(), config.in());
        Timing t = time(s, w, each -> Blockwise.dequantize(s, each, out));
        double bytes = w[0].bytes() + out.bytes();
        report.accept(Figure.rate("dequantize", "dequantize", threads, t,
                out.size() / 1e9, "Gelem/s", bytes, Bound.COPY, ceilings.copy())
                .with("gb_per_s", bytes / 1e9 / t.median()));
    }

    private void product(Stream s, RandomPool pool, QuantizedTensor[] w, int rows) {
        try (Held held = new Held(backend)) {
            Tensor x = input(held, pool, rows, config.in());
            Tensor y = held.tensor(MemoryUse.WORKSPACE, config.type(), rows, config.out());
            Timing t = time(s, w, each -> Blockwise.matmul(s, x, each, y));
            double work = Work.product(rows, config.out(), config.in());
            if (rows == 1) {
                report.accept(Figure.rate("matvec", "x W', m = 1, weights read", threads, t,
                        w[0].bytes() / 1e9, "GB/s", w[0].bytes(), Bound.READ, ceilings.read())
                        .with("gflop_per_s", work / 1e9 / t.median()));
            } else {
                report.accept(Figure.rate("matmul.m" + rows, "x W', m = " + rows, threads, t,
                        work / 1e9, "GFLOP/s", work, Bound.FLOPS, ceilings.flops()));
            }
        }
    }

    private void backward(Stream s, RandomPool pool, QuantizedTensor[] w, int rows) {
        try (Held held = new Held(backend)) {
            Tensor dy = input(held, pool, rows, config.out());
            Tensor dx = held.tensor(MemoryUse.WORKSPACE, config.type(), rows, config.in());
            Timing t = time(s, w, each -> Blockwise.matmulBackward(s, dy, each, false, dx));
            double work = Work.product(rows, config.out(), config.in());
            report.accept(Figure.rate("matmul_backward.m" + rows, "backward, dy W, m = " + rows, threads,
                    t, work / 1e9, "GFLOP/s", work, Bound.FLOPS, ceilings.flops()));
        }
    }

    private Tensor input(Held held, RandomPool pool, int rows, int columns) {
        Tensor t = held.tensor(MemoryUse.WORKSPACE, config.type(), rows, columns);
        pool.fill(t);
        return t;
    }
}
