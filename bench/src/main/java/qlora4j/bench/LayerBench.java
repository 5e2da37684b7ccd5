package qlora4j.bench;

import java.util.function.Consumer;
import qlora4j.bench.Ceilings.Bound;
import qlora4j.lora.Linear;
import qlora4j.model.AttentionShape;
import qlora4j.model.DecoderOps;
import qlora4j.optim.AdamHyper;
import qlora4j.optim.Optim;
import qlora4j.optim.OptimScalars;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The operations of a layer that are no products with W, over all tokens of a step, and the loss and the optimizer. A
 * layer's hidden size is the matrix' columns, its intermediate size the rows; four query heads share a key. The bytes of a
 * ceiling are each input read once and each output written once.
 */
final class LayerBench {
    private static final int[] HEAD_DIMS = {128, 64, 32, 16};
    private static final int GROUP = 4;
    private static final int LOGIT_ROWS = 256;
    private static final int VOCABULARY = 32_000;
    private static final int PARAMETERS = 1 << 24;
    private static final double EPSILON = 1e-5;

    private final Backend backend;
    private final BenchSettings config;
    private final Ceilings ceilings;
    private final int threads;
    private final Consumer<Figure> report;
    private final int tokens;

    LayerBench(Backend backend, BenchSettings config, Ceilings ceilings, Consumer<Figure> report) {
        this.backend = backend;
        this.config = config;
        this.ceilings = ceilings;
        this.threads = BenchRun.threads(backend);
        this.report = report;
        tokens = config.batch() * config.length();
    }

    /** The line above these figures. */
    static String title(BenchSettings config) {
        return "layer: " + config.batch() + " x " + config.length() + " tokens, hidden " + config.in()
                + ", intermediate " + config.out();
    }

    void run() {
        attention();
        norm();
        swiglu();
        crossEntropy();
        adamW();
    }

    /** Work of a piece that moves bytes. */
    private void bytes(String id, String what, Stream s, double bytes, Runnable work) {
        Timing t = Timing.of(work, s::synchronize, config.seconds());
        report.accept(Figure.rate(id, what, threads, t, bytes / 1e9, "GB/s", bytes, Bound.COPY, ceilings.copy()));
    }

    private void flops(String id, String what, Stream s, double flops, Runnable work) {
        Timing t = Timing.of(work, s::synchronize, config.seconds());
        report.accept(Figure.rate(id, what, threads, t, flops / 1e9, "GFLOP/s", flops, Bound.FLOPS, ceilings.flops()));
    }

    /** Random tensors of one operation. */
    private final class Random implements AutoCloseable {
        private final Held held = new Held(backend);
        private final RandomPool pool = new RandomPool(backend, config.type(), 0, 1, BenchSettings.SEED);

        Tensor normal(long... shape) {
            Tensor t = held.tensor(MemoryUse.WORKSPACE, config.type(), shape);
            pool.fill(t);
            return t;
        }

        /** Random float32 values, to be trained. */
        Tensor parameters(long... shape) {
            Tensor t = held.tensor(MemoryUse.OPTIMIZER, DType.F32, shape);
            try (RandomPool values = new RandomPool(backend, DType.F32, 0, 1, BenchSettings.SEED)) {
                values.fill(t);
            }
            return t;
        }

        Tensor wide(long... shape) {
            return held.tensor(MemoryUse.WORKSPACE, Linear.wide(config.type()), shape);
        }

        @Override
        public void close() {
            pool.close();
            held.close();
        }
    }

    private void attention() {
        int dim = 0;
        for (int d : HEAD_DIMS) {
            dim = dim == 0 && config.in() % d == 0 ? d : dim;
        }
        if (dim == 0) {
            return;
        }
        int heads = config.in() / dim;
        int kvHeads = heads % GROUP == 0 ? heads / GROUP : heads;
        AttentionShape shape = new AttentionShape(heads, kvHeads, dim, 0, config.length());
        double seen = config.batch() * (double) config.length() * (config.length() + 1) / 2;
        double flops = 4.0 * config.in() * seen;
        String size = heads + " heads of " + dim + ", " + kvHeads + " of keys";
        try (Random r = new Random(); Stream s = backend.openStream()) {
            int[] starts = new int[config.batch() + 1];
            int[] lengths = new int[config.batch()];
            for (int i = 0; i < config.batch(); i++) {
                starts[i + 1] = (i + 1) * config.length();
                lengths[i] = config.length();
            }
            Tensor cu = r.held.ints(starts);
            Tensor len = r.held.ints(lengths);
            Tensor q = r.normal(tokens, config.in());
            Tensor k = r.normal(tokens, (long) kvHeads * dim);
            Tensor v = r.normal(tokens, (long) kvHeads * dim);
            Tensor out = r.normal(tokens, config.in());
            Tensor lse = r.wide(tokens, heads);
            Tensor start = cu.rows(0, config.batch());
            flops("attention", "causal attention, " + size, s, flops,
                    () -> DecoderOps.attention(s, shape, q, k, v, cu, start, len, out, lse));
            Tensor dOut = r.normal(tokens, config.in());
            Tensor dq = r.normal(tokens, config.in());
            Tensor dk = r.normal(tokens, (long) kvHeads * dim);
            Tensor dv = r.normal(tokens, (long) kvHeads * dim);
            flops("attention_backward", "its gradient, counted as 2.5 times it", s, 2.5 * flops,
                    () -> DecoderOps.attentionBackward(s, shape, dOut, q, k, v, out, lse, cu, dq, dk, dv));
        }
    }

    private void norm() {
        try (Random r = new Random(); Stream s = backend.openStream()) {
            Tensor x = r.normal(tokens, config.in());
            Tensor w = r.normal(config.in());
            Tensor y = r.normal(tokens, config.in());
            Tensor rstd = r.wide(tokens);
            bytes("rmsnorm", "RMSNorm", s, 2.0 * x.bytes(), () -> DecoderOps.rmsNorm(s, x, w, EPSILON, y, rstd));
            Tensor dx = r.normal(tokens, config.in());
            bytes("rmsnorm_backward", "its gradient, added to the residual's", s, 4.0 * x.bytes(),
                    () -> DecoderOps.rmsNormBackward(s, y, x, w, rstd, dx, dx, null));
        }
    }

    private void swiglu() {
        try (Random r = new Random(); Stream s = backend.openStream()) {
            Tensor gate = r.normal(tokens, config.out());
            Tensor up = r.normal(tokens, config.out());
            Tensor out = r.normal(tokens, config.out());
            bytes("swiglu", "SwiGLU", s, 3.0 * gate.bytes(), () -> DecoderOps.swiglu(s, gate, up, out));
            Tensor dGate = r.normal(tokens, config.out());
            Tensor dUp = r.normal(tokens, config.out());
            bytes("swiglu_backward", "its gradient", s, 5.0 * gate.bytes(),
                    () -> DecoderOps.swigluBackward(s, out, gate, up, dGate, dUp));
        }
    }

    private void crossEntropy() {
        try (Random r = new Random(); Stream s = backend.openStream()) {
            Tensor logits = r.parameters(LOGIT_ROWS, VOCABULARY);
            Tensor labels = r.held.ints(new int[LOGIT_ROWS]);
            Tensor scale = r.wide(1);
            Tensor nll = r.wide(LOGIT_ROWS);
            Tensor loss = r.held.tensor(MemoryUse.WORKSPACE, DType.F64, 1);
            bytes("cross_entropy", "cross-entropy, " + LOGIT_ROWS + " x " + VOCABULARY + ", gradient in place", s,
                    2.0 * logits.bytes(),
                    () -> DecoderOps.crossEntropy(s, logits, labels, scale, nll, loss, true));
        }
    }

    private void adamW() {
        try (Random r = new Random(); Stream s = backend.openStream()) {
            Tensor[] all = {r.parameters(PARAMETERS), r.parameters(PARAMETERS),
                    r.held.tensor(MemoryUse.OPTIMIZER, DType.F32, PARAMETERS),
                    r.held.tensor(MemoryUse.OPTIMIZER, DType.F32, PARAMETERS)};
            Tensor scalars = r.held.tensor(MemoryUse.OPTIMIZER, DType.F64, OptimScalars.SIZE);
            backend.upload(Tensor.zeros(DType.F64, OptimScalars.SIZE).fill(1), scalars);
            AdamHyper hyper = AdamHyper.defaults(AdamHyper.Formula.BITSANDBYTES);
            bytes("adamw", "AdamW, " + PARAMETERS + " parameters", s, 7.0 * all[0].bytes(),
                    () -> Optim.adamW(s, hyper, all[0], all[1], all[2], all[3], scalars));
        }
    }
}
