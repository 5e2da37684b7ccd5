package qlora4j.verify.numerics;

import java.util.EnumMap;
import java.util.Map;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** The decoder's operations. */
final class DecoderCases {
    private static final int FEATURES = 75;
    private static final double EPS = 1e-5;
    private static final int HEAD = 24;
    private static final int HEADS = 4;
    private static final int KV_HEADS = 2;
    private static final int VOCABULARY = 133;

    private DecoderCases() {
    }

    static Map<Result, Tensor> embedding(OnBackend on, Samples in) {
        Stream s = on.stream();
        Tensor table = on.copy(in.normal(10, 1, VOCABULARY, FEATURES));
        Tensor tokens = on.copy(in.ints(11, VOCABULARY, in.rows()));
        Tensor dOut = on.copy(in.normal(12, 1, in.rows(), FEATURES));
        Tensor gradient = on.copy(in.normal(13, 1, VOCABULARY, FEATURES));
        DecoderOps.embeddingBackward(s, tokens, dOut, gradient);
        return Map.of(Result.EMBEDDING,
                on.filled(in.type(), dOut.shape(), t -> DecoderOps.embedding(s, tokens, table, t)),
                Result.EMBEDDING_GRADIENT, on.download(gradient));
    }

    /** RMSNorm: {@code dx} is magnified as {@code rstd·(|g| + |x|·rstd²·mean|g·x|)}. */
    static final class Norm implements Case {
        @Override
        public Map<Result, Tensor> run(OnBackend on, Samples in) {
            Stream s = on.stream();
            Tensor x = on.copy(in.normal(14, 1, in.rows(), FEATURES));
            Tensor w = on.copy(in.normal(15, 1, FEATURES));
            Tensor dy = on.copy(in.normal(16, 1, in.rows(), FEATURES));
            Tensor rstd = on.poisoned(in.wide(), in.rows());
            Tensor dw = on.copy(Tensor.zeros(in.wide(), FEATURES));
            Map<Result, Tensor> out = new EnumMap<>(Result.class);
            out.put(Result.RMSNORM_Y, on.filled(in.type(), x.shape(), t -> DecoderOps.rmsNorm(s, x, w, EPS, t, rstd)));
            out.put(Result.RMSNORM_DX, on.filled(in.type(), x.shape(),
                    t -> DecoderOps.rmsNormBackward(s, dy, x, w, rstd, null, t, dw)));
            out.put(Result.RMSNORM_DWEIGHT, on.download(dw));
            return out;
        }

        @Override
        public Map<Result, Tensor> magnitudes(OnBackend scalar, Samples in) {
            Map<Result, Tensor> m = run(scalar, in);
            Tensor x = in.normal(14, 1, in.rows(), FEATURES);
            Tensor w = in.normal(15, 1, FEATURES);
            Tensor dy = in.normal(16, 1, in.rows(), FEATURES);
            // On absolute values dx is rstd·(g - rest): 2·rstd·g - dx turns the minus into a plus.
            Tensor dx = m.get(Result.RMSNORM_DX);
            for (int i = 0; i < in.rows(); i++) {
                double squares = EPS * FEATURES;
                for (int c = 0; c < FEATURES; c++) {
                    squares += x.get((long) i * FEATURES + c) * x.get((long) i * FEATURES + c);
                }
                double rstd = 1 / Math.sqrt(squares / FEATURES);
                for (int c = 0; c < FEATURES; c++) {
                    long at = (long) i * FEATURES + c;
                    dx.set(at, 2 * rstd * dy.get(at) * w.get(c) - dx.get(at));
                }
            }
            return m;
        }
    }

    /** RoPE with angles up to 60 radians; the magnitude of a rotated pair is that of its larger terms. */
    static final class Rope implements Case {
        private static final int POSITIONS = 61;

        @Override
        public Map<Result, Tensor> run(OnBackend on, Samples in) {
            Tensor q = on.copy(in.signed(17, 1, in.rows(), HEADS * HEAD));
            Tensor k = on.copy(in.signed(18, 1, in.rows(), KV_HEADS * HEAD));
            DecoderOps.rope(on.stream(), q, k, on.copy(in.ints(19, POSITIONS, in.rows())), on.copy(table(in.wide())),
                    HEAD, false);
            return Map.of(Result.ROPE_Q, on.download(q));
        }

        /** The same float32 cosines and sines in either type. */
        private static Tensor table(DType type) {
            Tensor table = Tensor.zeros(type, POSITIONS, HEAD);
            for (int p = 0; p < POSITIONS; p++) {
                for (int j = 0; j < HEAD / 2; j++) {
                    double angle = p * StrictMath.pow(10000, -2.0 * j / HEAD);
                    table.set((long) p * HEAD + j, (float) StrictMath.cos(angle));
                    table.set((long) p * HEAD + HEAD / 2 + j, (float) StrictMath.sin(angle));
                }
            }
            return table;
        }

        @Override
        public Map<Result, Tensor> magnitudes(OnBackend scalar, Samples in) {
            Tensor q = in.normal(17, 1, in.rows(), HEADS * HEAD);
            Tensor m = Tensor.zeros(DType.F64, q.shape());
            Tensor positions = in.ints(19, POSITIONS, in.rows());
            Tensor table = table(DType.F64);
            for (long i = 0; i < q.size(); i++) {
                int j = (int) (i % HEAD) % (HEAD / 2);
                long other = i % HEAD < HEAD / 2 ? i + HEAD / 2 : i - HEAD / 2;
                long row = (long) positions.get(i / q.cols()) * HEAD;
                m.set(i, q.get(i) * Math.abs(table.get(row + j))
                        + q.get(other) * Math.abs(table.get(row + HEAD / 2 + j)));
            }
            return Map.of(Result.ROPE_Q, m);
        }
    }

    /** SwiGLU: the gradient of gate is magnified as {@code |d·u|·σ·(1 + |g|·(1 + σ))}. */
    static final class Swiglu implements Case {
        @Override
        public Map<Result, Tensor> run(OnBackend on, Samples in) {
            Stream s = on.stream();
            Tensor gate = on.copy(in.signed(24, 3, in.rows(), FEATURES));
            Tensor up = on.copy(in.normal(25, 1, gate.shape()));
            Tensor d = on.copy(in.normal(26, 1, gate.shape()));
            Tensor dGate = on.poisoned(in.type(), gate.shape());
            Tensor dUp = on.poisoned(in.type(), gate.shape());
            DecoderOps.swigluBackward(s, d, gate, up, dGate, dUp);
            return Map.of(Result.SWIGLU_OUT,
                    on.filled(in.type(), gate.shape(), t -> DecoderOps.swiglu(s, gate, up, t)),
                    Result.SWIGLU_DGATE, on.download(dGate), Result.SWIGLU_DUP, on.download(dUp));
        }

        @Override
        public Map<Result, Tensor> magnitudes(OnBackend scalar, Samples in) {
            Map<Result, Tensor> m = new EnumMap<>(run(scalar, in));
            Tensor gate = in.signed(24, 3, in.rows(), FEATURES);
            Tensor up = in.normal(25, 1, gate.shape());
            Tensor d = in.normal(26, 1, gate.shape());
            Tensor dGate = Tensor.zeros(DType.F64, gate.shape());
            for (long i = 0; i < gate.size(); i++) {
                double sigma = 1 / (1 + Math.exp(-gate.get(i)));
                dGate.set(i, d.get(i) * up.get(i) * sigma * (1 + Math.abs(gate.get(i)) * (1 + sigma)));
            }
            m.put(Result.SWIGLU_DGATE, dGate);
            return m;
        }
    }

    /**
     * Cross-entropy: nll's magnitude is {@code |lse| + |logit|}, the loss's the scaled sum of those, the gradient's
     * {@code scale·(p + onehot)}.
     */
    static final class CrossEntropy implements Case {
        private static final double SCALE = 0.125;

        @Override
        public Map<Result, Tensor> run(OnBackend on, Samples in) {
            Tensor logits = on.copy(in.signed(27, 3, in.rows(), VOCABULARY));
            Tensor nll = on.poisoned(in.type(), in.rows());
            Tensor loss = on.copy(Tensor.zeros(DType.F64, 1));
            DecoderOps.crossEntropy(on.stream(), logits, on.copy(in.ints(28, VOCABULARY, in.rows())),
                    on.copy(Tensor.of(new double[]{SCALE}, 1)), nll, loss, true);
            return Map.of(Result.CROSS_ENTROPY_NLL, on.download(nll), Result.CROSS_ENTROPY_GRADIENT,
                    on.download(logits), Result.CROSS_ENTROPY_LOSS, on.download(loss));
        }

        @Override
        public Map<Result, Tensor> magnitudes(OnBackend scalar, Samples in) {
            Map<Result, Tensor> m = run(scalar, in);
            Tensor logits = in.signed(27, 3, in.rows(), VOCABULARY);
            Tensor labels = in.ints(28, VOCABULARY, in.rows());
            double loss = 0;
            for (int i = 0; i < in.rows(); i++) {
                long at = (long) i * VOCABULARY + (long) labels.get(i);
                double logit = logits.get(at);
                double lse = m.get(Result.CROSS_ENTROPY_NLL).get(i) + logit;
                m.get(Result.CROSS_ENTROPY_NLL).set(i, Math.abs(lse) + Math.abs(logit));
                loss += SCALE * (Math.abs(lse) + Math.abs(logit));
                m.get(Result.CROSS_ENTROPY_GRADIENT).set(at, SCALE * (1 + Math.exp(logit - lse)));
            }
            m.get(Result.CROSS_ENTROPY_LOSS).set(0, loss);
            return m;
        }
    }
}
