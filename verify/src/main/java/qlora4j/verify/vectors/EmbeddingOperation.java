package qlora4j.verify.vectors;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.Backend;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** The embedding and its gradient, with a token that is there three times and rows that no token has: section 7. */
final class EmbeddingOperation implements Operation {
    private static final int VOCABULARY = 9;
    private static final int FEATURES = 12;
    private static final int[] TOKENS = {4, 0, 4, 8, 7, 4, 0};
    /** A sum of three numbers below 4. */
    private static final double LIMIT = 2e-6;

    private final Map<String, Tensor> inputs = new LinkedHashMap<>();

    EmbeddingOperation() {
        inputs.put("tokens", Tensor.of(TOKENS, TOKENS.length));
        inputs.put("table", Inputs.normal(DType.F32, 80, 1, VOCABULARY, FEATURES));
        inputs.put("dy", Inputs.normal(DType.F32, 81, 1, TOKENS.length, FEATURES));
    }

    @Override
    public String name() {
        return "embedding";
    }

    @Override
    public String section() {
        return "7";
    }

    @Override
    public Map<String, Tensor> inputs() {
        return inputs;
    }

    @Override
    public List<Output> outputs() {
        return List.of(Output.exact("y"), new Output("dtable", LIMIT));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        try (Stream s = backend.openStream()) {
            OnBackend on = new OnBackend(backend, s);
            Tensor tokens = on.copy(inputs.get("tokens"));
            Tensor table = on.copy(inputs.get("table"));
            Tensor dTable = on.copy(Tensor.zeros(DType.F32, VOCABULARY, FEATURES));
            Tensor dy = on.copy(inputs.get("dy"));
            DecoderOps.embeddingBackward(s, tokens, dy, dTable);
            return Map.of("y", on.filled(DType.F32, dy.shape(), t -> DecoderOps.embedding(s, tokens, table, t)),
                    "dtable", on.download(dTable));
        }
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        Matrix table = Matrix.of(inputs.get("table"));
        Matrix dy = Matrix.of(inputs.get("dy"));
        double scale = fault == Fault.EMBEDDING_SCALED ? (float) Math.sqrt(FEATURES) : 1;
        double[] y = new double[TOKENS.length * FEATURES];
        double[] dTable = new double[VOCABULARY * FEATURES];
        for (int i = 0; i < TOKENS.length; i++) {
            for (int c = 0; c < FEATURES; c++) {
                y[i * FEATURES + c] = scale * table.get(TOKENS[i], c);
                int at = TOKENS[i] * FEATURES + c;
                double before = fault == Fault.REPEATED_TOKEN_OVERWRITES ? 0 : dTable[at];
                dTable[at] = before + scale * dy.get(i, c);
            }
        }
        return Map.of("y", new Matrix(TOKENS.length, FEATURES, y).toTensor(DType.F32), "dtable",
                new Matrix(VOCABULARY, FEATURES, dTable).toTensor(DType.F32));
    }
}
