package qlora4j.verify.numerics;

import java.util.EnumMap;
import java.util.Map;
import qlora4j.model.AttentionShape;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/**
 * Causal attention of one sequence. The magnitudes of out and dv are linear in |v| and |dOut|, lse's is that of |q|·|k|,
 * and in {@code dS = P·(dP - ΣP·dP)/√D} the minus becomes a plus: dq's is {@code dS·|k|}, dk's {@code dSᵀ·|q|}.
 */
final class AttentionCase implements Case {
    private static final int HEADS = 4;
    private static final int KV_HEADS = 2;
    private static final int HEAD = 24;
    private static final AttentionShape SHAPE = new AttentionShape(HEADS, KV_HEADS, HEAD, 0, 64);

    private static Tensor q(Samples in) {
        return in.normal(20, 1, in.rows(), HEADS * HEAD);
    }

    private static Tensor k(Samples in) {
        return in.normal(21, 1, in.rows(), KV_HEADS * HEAD);
    }

    private static Tensor v(Samples in) {
        return in.normal(22, 1, in.rows(), KV_HEADS * HEAD);
    }

    private static Tensor dOut(Samples in) {
        return in.normal(23, 1, in.rows(), HEADS * HEAD);
    }

    @Override
    public Map<Result, Tensor> run(OnBackend on, Samples in) {
        return run(on, in, q(in.signed()), k(in.signed()));
    }

    private static Map<Result, Tensor> run(OnBackend on, Samples in, Tensor hostQ, Tensor hostK) {
        Stream s = on.stream();
        int n = in.rows();
        Tensor q = on.copy(hostQ);
        Tensor k = on.copy(hostK);
        Tensor v = on.copy(v(in));
        Tensor cu = on.copy(Tensor.of(new int[]{0, n}, 2));
        Tensor start = on.copy(Tensor.of(new int[]{0}, 1));
        Tensor length = on.copy(Tensor.of(new int[]{n}, 1));
        Tensor out = on.poisoned(in.type(), q.shape());
        Tensor lse = on.poisoned(in.wide(), n, HEADS);
        DecoderOps.attention(s, SHAPE, q, k, v, cu, start, length, out, lse);
        Tensor dq = on.poisoned(in.type(), q.shape());
        Tensor dk = on.poisoned(in.type(), k.shape());
        Tensor dv = on.poisoned(in.type(), k.shape());
        DecoderOps.attentionBackward(s, SHAPE, on.copy(dOut(in)), q, k, v, out, lse, cu, dq, dk, dv);
        return Map.of(Result.ATTENTION_OUT, on.download(out), Result.ATTENTION_LSE, on.download(lse),
                Result.ATTENTION_DQ, on.download(dq), Result.ATTENTION_DK, on.download(dk), Result.ATTENTION_DV,
                on.download(dv));
    }

    @Override
    public Map<Result, Tensor> magnitudes(OnBackend scalar, Samples in) {
        Map<Result, Tensor> m = new EnumMap<>(run(scalar, in));
        m.put(Result.ATTENTION_LSE, run(scalar, in, q(in), k(in)).get(Result.ATTENTION_LSE));
        Tensor lse = run(scalar, in.signed()).get(Result.ATTENTION_LSE);
        Tensor dq = Tensor.zeros(DType.F64, in.rows(), HEADS * HEAD);
        Tensor dk = Tensor.zeros(DType.F64, in.rows(), KV_HEADS * HEAD);
        for (int h = 0; h < HEADS; h++) {
            for (int i = 0; i < in.rows(); i++) {
                addQuery(in, h, i, lse.get((long) i * HEADS + h), dq, dk);
            }
        }
        m.put(Result.ATTENTION_DQ, dq);
        m.put(Result.ATTENTION_DK, dk);
        return m;
    }

    /** Adds one query's terms, all of them positive. */
    private static void addQuery(Samples in, int h, int i, double lse, Tensor dq, Tensor dk) {
        int kvHead = h / (HEADS / KV_HEADS);
        double[] p = new double[i + 1];
        double[] dP = new double[i + 1];
        double mean = 0;
        for (int j = 0; j <= i; j++) {
            double score = dot(q(in.signed()), i, h, k(in.signed()), j, kvHead) * SHAPE.scale();
            p[j] = Math.exp(score - lse);
            dP[j] = dot(dOut(in), i, h, v(in), j, kvHead);
            mean += p[j] * dP[j];
        }
        for (int j = 0; j <= i; j++) {
            double dS = p[j] * (dP[j] + mean) * SHAPE.scale();
            add(dq, i, h, dS, k(in), j, kvHead);
            add(dk, j, kvHead, dS, q(in), i, h);
        }
    }

    private static long at(Tensor t, int row, int head) {
        return (long) row * t.cols() + (long) head * HEAD;
    }

    private static double dot(Tensor a, int i, int h, Tensor b, int j, int g) {
        double sum = 0;
        for (int c = 0; c < HEAD; c++) {
            sum += a.get(at(a, i, h) + c) * b.get(at(b, j, g) + c);
        }
        return sum;
    }

    private static void add(Tensor to, int i, int h, double factor, Tensor x, int j, int g) {
        for (int c = 0; c < HEAD; c++) {
            to.set(at(to, i, h) + c, to.get(at(to, i, h) + c) + factor * x.get(at(x, j, g) + c));
        }
    }
}
