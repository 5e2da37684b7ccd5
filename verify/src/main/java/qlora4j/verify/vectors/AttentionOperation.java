package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.model.AttentionShape;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** Causal attention of one sequence with grouped heads, and its gradient, without and with a window: section 7. */
final class AttentionOperation implements Operation {
    private static final int LENGTH = 7;
    private static final int HEADS = 4;
    private static final int KV_HEADS = 2;
    private static final int HEAD = 8;
    private static final int WINDOW = 3;
    /** Sums of 8 and of 7 products of numbers below 4, an exponential within some ulp of scores below 8. */
    private static final double LIMIT = 2e-5;

    private final AttentionShape shape;
    private final Map<String, Tensor> inputs = new LinkedHashMap<>();

    AttentionOperation(boolean windowed) {
        shape = new AttentionShape(HEADS, KV_HEADS, HEAD, windowed ? WINDOW : 0, LENGTH);
        inputs.put("q", Inputs.normal(DType.F32, 57, 1, LENGTH, HEADS * HEAD));
        inputs.put("k", Inputs.normal(DType.F32, 58, 1, LENGTH, KV_HEADS * HEAD));
        inputs.put("v", Inputs.normal(DType.F32, 59, 1, LENGTH, KV_HEADS * HEAD));
        inputs.put("dy", Inputs.normal(DType.F32, 60, 1, LENGTH, HEADS * HEAD));
    }

    @Override
    public String name() {
        return shape.window() > 0 ? "attention.window" : "attention";
    }

    @Override
    public String section() {
        return "7";
    }

    @Override
    public Map<String, Object> parameters() {
        return Map.of("num_attention_heads", HEADS, "num_key_value_heads", KV_HEADS, "head_dim", HEAD,
                "sliding_window", shape.window());
    }

    @Override
    public Map<String, Tensor> inputs() {
        return inputs;
    }

    @Override
    public List<Output> outputs() {
        return List.of(new Output("y", LIMIT), new Output("dq", LIMIT).after("y"), new Output("dk", LIMIT).after("y"),
                new Output("dv", LIMIT).after("y"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        Map<String, Tensor> out = new LinkedHashMap<>();
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            Tensor q = on.copy(inputs.get("q"));
            Tensor k = on.copy(inputs.get("k"));
            Tensor v = on.copy(inputs.get("v"));
            Tensor cu = on.copy(Tensor.of(new int[]{0, LENGTH}, 2));
            Tensor y = on.poisoned(DType.F32, q.shape());
            Tensor lse = on.poisoned(DType.F32, LENGTH, HEADS);
            DecoderOps.attention(s, shape, q, k, v, cu, on.copy(Tensor.of(new int[]{0}, 1)),
                    on.copy(Tensor.of(new int[]{LENGTH}, 1)), y, lse);
            Tensor dk = on.poisoned(DType.F32, k.shape());
            Tensor dv = on.poisoned(DType.F32, k.shape());
            out.put("y", on.download(y));
            out.put("dq", on.filled(DType.F32, q.shape(), t -> DecoderOps.attentionBackward(s, shape,
                    on.copy(inputs.get("dy")), q, k, v, y, lse, cu, t, dk, dv)));
            out.put("dk", on.download(dk));
            out.put("dv", on.download(dv));
        }
        return out;
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        Matrix dq = new Matrix(LENGTH, HEADS * HEAD, new double[LENGTH * HEADS * HEAD]);
        Matrix dk = new Matrix(LENGTH, KV_HEADS * HEAD, new double[LENGTH * KV_HEADS * HEAD]);
        Matrix dv = new Matrix(LENGTH, KV_HEADS * HEAD, new double[LENGTH * KV_HEADS * HEAD]);
        Matrix y = new Matrix(LENGTH, HEADS * HEAD, new double[LENGTH * HEADS * HEAD]);
        for (int h = 0; h < HEADS; h++) {
            int g = fault == Fault.HEADS_INTERLEAVED ? h % KV_HEADS : h / (HEADS / KV_HEADS);
            for (int i = 0; i < LENGTH; i++) {
                query(i, h, g, fault, y, dq, dk, dv);
            }
        }
        return Map.of("y", y.toTensor(DType.F32), "dq", dq.toTensor(DType.F32), "dk", dk.toTensor(DType.F32), "dv",
                dv.toTensor(DType.F32));
    }

    /** One query of head h on the keys of head g: softmax, and its gradient {@code dS = P·(dP - ΣP·dP)}. */
    private void query(int i, int h, int g, Fault fault, Matrix y, Matrix dq, Matrix dk, Matrix dv) {
        Matrix q = Matrix.of(inputs.get("q"));
        Matrix k = Matrix.of(inputs.get("k"));
        Matrix v = Matrix.of(inputs.get("v"));
        Matrix dy = Matrix.of(inputs.get("dy"));
        double scale = fault == Fault.ATTENTION_SCALE_MISSING ? 1 : 1 / Math.sqrt(HEAD);
        double[] p = new double[LENGTH];
        double[] dP = new double[LENGTH];
        double sum = 0;
        for (int j = 0; j < LENGTH; j++) {
            double score = 0;
            for (int c = 0; c < HEAD; c++) {
                score += q.get(i, h * HEAD + c) * k.get(j, g * HEAD + c) * scale;
                dP[j] += dy.get(i, h * HEAD + c) * v.get(j, g * HEAD + c);
            }
            p[j] = sees(i, j, fault) ? StrictMath.exp(score) : 0;
            sum += p[j];
        }
        double mean = 0;
        for (int j = 0; j < LENGTH; j++) {
            p[j] /= sum;
            mean += p[j] * dP[j];
        }
        for (int j = 0; j < LENGTH; j++) {
            double dS = p[j] * (dP[j] - mean) * scale;
            for (int c = 0; c < HEAD; c++) {
                int query = i * HEADS * HEAD + h * HEAD + c;
                int key = j * KV_HEADS * HEAD + g * HEAD + c;
                y.at()[query] += p[j] * v.at()[key];
                dq.at()[query] += dS * k.at()[key];
                dk.at()[key] += dS * q.at()[query];
                dv.at()[key] += p[j] * dy.at()[query];
            }
        }
    }

    /** Whether the query at i sees the key at j. */
    private boolean sees(int i, int j, Fault fault) {
        int last = fault == Fault.NOT_CAUSAL ? LENGTH : fault == Fault.MASK_OFF_BY_ONE ? i + 1 : i;
        int window = fault == Fault.WINDOW_IGNORED || shape.window() == 0 ? LENGTH
                : fault == Fault.WINDOW_OFF_BY_ONE ? WINDOW + 1 : WINDOW;
        return j <= last && j > i - window;
    }
}
