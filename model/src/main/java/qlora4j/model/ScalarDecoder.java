package qlora4j.model;

import qlora4j.lora.Dropout;
import qlora4j.tensor.DType;
import qlora4j.tensor.Philox;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * The reference kernels: plain loops that read as the equations, elements read and written through their type as
 * double, sums in double, {@code StrictMath}. The oracle for the others, and on float64 tensors for finite differences.
 */
final class ScalarDecoder implements DecoderKernels {
    private final TokenSampler sampler = new TokenSampler();

    @Override
    public void embedding(Stream s, Tensor tokens, Tensor table, Tensor out) {
        for (int i = 0; i < tokens.size(); i++) {
            copyRow(table, token(tokens, i, table), out, i);
        }
    }

    @Override
    public void embeddingBackward(Stream s, Tensor tokens, Tensor dOut, Tensor dTable) {
        int n = dTable.cols();
        for (int i = 0; i < tokens.size(); i++) {
            long to = (long) token(tokens, i, dTable) * n;
            for (int c = 0; c < n; c++) {
                dTable.set(to + c, dTable.get(to + c) + dOut.get((long) i * n + c));
            }
        }
    }

    @Override
    public void embeddingNoise(Stream s, EmbeddingNoise noise, Tensor samples, Tensor positions, Tensor cu, Tensor h) {
        int n = h.cols();
        int step = (int) noise.step().get(0);
        int[] words = new int[4];
        for (int q = 0; q + 1 < cu.size(); q++) {
            int first = (int) cu.get(q);
            int end = (int) cu.get(q + 1);
            float magnitude = noise.magnitude(end - first, n);
            for (int i = first; i < end; i++) {
                for (int j = 0; j < n; j++) {
                    if (j % 4 == 0) {
                        Philox.words(noise.seed(), Dropout.counter(j / 4, EmbeddingNoise.MODULE),
                                (int) positions.get(i), (int) samples.get(i), step, words);
                    }
                    long at = (long) i * n + j;
                    float added = (2 * Philox.unit(words[j % 4]) - 1) * magnitude;
                    double sum = h.get(at) + added;
                    h.set(at, h.dtype() == DType.F64 ? sum : (float) sum);
                }
            }
        }
    }

    @Override
    public void rmsNorm(Stream s, Tensor x, Tensor weight, double eps, Tensor y, Tensor rstd) {
        int n = x.cols();
        for (int i = 0; i < x.rows(); i++) {
            long row = (long) i * n;
            rstd.set(i, 1 / StrictMath.sqrt(dot(x, row, x, row, n) / n + eps));
            double r = rstd.get(i);
            for (int c = 0; c < n; c++) {
                y.set(row + c, round(y.dtype(), x.get(row + c) * r) * weight.get(c));
            }
        }
    }

    @Override
    public void rmsNormBackward(Stream s, Tensor dy, Tensor x, Tensor weight, Tensor rstd, Tensor residual, Tensor dx,
            Tensor dWeight) {
        int n = x.cols();
        double[] sum = new double[n];
        for (int i = 0; i < x.rows(); i++) {
            long row = (long) i * n;
            double r = rstd.get(i);
            double mean = 0;
            for (int c = 0; c < n; c++) {
                mean += dy.get(row + c) * weight.get(c) * x.get(row + c);
            }
            mean /= n;
            for (int c = 0; c < n; c++) {
                double g = dy.get(row + c) * weight.get(c);
                double other = residual == null ? 0 : residual.get(row + c);
                sum[c] += dy.get(row + c) * x.get(row + c) * r;
                dx.set(row + c, other + r * (g - x.get(row + c) * r * r * mean));
            }
        }
        if (dWeight != null) {
            for (int c = 0; c < n; c++) {
                dWeight.set(c, dWeight.get(c) + sum[c]);
            }
        }
    }

    @Override
    public void rope(Stream s, Tensor q, Tensor k, Tensor positions, Tensor table, int headDim, boolean inverse) {
        for (Tensor t : new Tensor[]{q, k}) {
            for (int i = 0; i < positions.size(); i++) {
                long angles = (long) position(positions, i, table) * headDim;
                for (int from = 0; from < t.cols(); from += headDim) {
                    rotate(t, (long) i * t.cols() + from, table, angles, headDim / 2, inverse);
                }
            }
        }
    }

    /** Rotates the pairs (j, j + half) of the head at element {@code at}. */
    private static void rotate(Tensor t, long at, Tensor table, long angles, int half, boolean inverse) {
        for (int j = 0; j < half; j++) {
            double cos = table.get(angles + j);
            double sin = inverse ? -table.get(angles + half + j) : table.get(angles + half + j);
            double a = t.get(at + j);
            double b = t.get(at + half + j);
            t.set(at + j, a * cos - b * sin);
            t.set(at + half + j, b * cos + a * sin);
        }
    }

    @Override
    public void attention(Stream s, AttentionShape shape, Tensor q, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart,
            Tensor kvLen, Tensor out, Tensor lse) {
        ScalarAttention.forward(shape, q, k, v, cuQ, kvStart, kvLen, out, lse);
    }

    @Override
    public void attentionBackward(Stream s, AttentionShape shape, Tensor dOut, Tensor q, Tensor k, Tensor v, Tensor out,
            Tensor lse, Tensor cu, Tensor dq, Tensor dk, Tensor dv) {
        ScalarAttention.backward(shape, dOut, q, k, v, out, lse, cu, dq, dk, dv);
    }

    @Override
    public void appendToCache(Stream s, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen, Tensor kCache,
            Tensor vCache) {
        for (int seq = 0; seq < kvStart.size(); seq++) {
            int from = integer(cuQ, seq);
            int n = integer(cuQ, seq + 1) - from;
            int to = integer(kvStart, seq) + integer(kvLen, seq) - n;
            for (int i = 0; i < n; i++) {
                copyRow(k, from + i, kCache, to + i);
                copyRow(v, from + i, vCache, to + i);
            }
        }
    }

    @Override
    public void swiglu(Stream s, Tensor gate, Tensor up, Tensor out) {
        for (long i = 0; i < out.size(); i++) {
            double g = gate.get(i);
            out.set(i, round(out.dtype(), g * sigmoid(g)) * up.get(i));
        }
    }

    @Override
    public void swigluBackward(Stream s, Tensor dOut, Tensor gate, Tensor up, Tensor dGate, Tensor dUp) {
        for (long i = 0; i < dOut.size(); i++) {
            double g = gate.get(i);
            double u = up.get(i);
            double d = dOut.get(i);
            double sigma = sigmoid(g);
            dGate.set(i, d * u * sigma * (1 + g * (1 - sigma)));
            dUp.set(i, d * g * sigma);
        }
    }

    @Override
    public void gatherRows(Stream s, Tensor x, Tensor index, Tensor out) {
        for (int i = 0; i < index.size(); i++) {
            copyRow(x, integer(index, i), out, i);
        }
    }

    @Override
    public void crossEntropy(Stream s, Tensor logits, Tensor labels, Tensor scale, Tensor nll, Tensor loss,
            boolean gradient) {
        int n = logits.cols();
        for (int i = 0; i < labels.size(); i++) {
            long row = (long) i * n;
            int label = label(labels, i, n);
            double lse = label == IGNORED ? 0 : logSumExp(logits, row, n);
            nll.set(i, label == IGNORED ? 0 : lse - logits.get(row + label));
            loss.set(0, loss.get(0) + scale.get(0) * nll.get(i));
            for (int c = 0; gradient && c < n; c++) {
                double p = label == IGNORED ? 0 : StrictMath.exp(logits.get(row + c) - lse);
                logits.set(row + c, scale.get(0) * (c == label ? p - 1 : p));
            }
        }
    }

    private static double logSumExp(Tensor t, long from, int n) {
        double max = Double.NEGATIVE_INFINITY;
        for (int c = 0; c < n; c++) {
            max = Math.max(max, t.get(from + c));
        }
        double sum = 0;
        for (int c = 0; c < n; c++) {
            sum += StrictMath.exp(t.get(from + c) - max);
        }
        return max + StrictMath.log(sum);
    }

    @Override
    public void sample(Stream s, SamplingConfig config, Tensor logits, Tensor history, Tensor lengths, Tensor tokens) {
        sampler.sample(config, logits, history, lengths, tokens);
    }

    /** The label of rows that are not trained. */
    static final int IGNORED = -100;

    /** Element {@code i} of an int32 tensor. */
    static int integer(Tensor t, long i) {
        return (int) t.get(i);
    }

    /** Token {@code i}, which must name a row of the table. */
    static int token(Tensor tokens, int i, Tensor table) {
        int id = integer(tokens, i);
        if (id < 0 || id >= table.dim(0)) {
            throw DecoderFaults.token(i, id, table.dim(0));
        }
        return id;
    }

    /** Position {@code i}, which must lie in the rotation table. */
    static int position(Tensor positions, int i, Tensor table) {
        int p = integer(positions, i);
        if (p < 0 || p >= table.dim(0)) {
            throw DecoderFaults.position(i, p, table.dim(0));
        }
        return p;
    }

    /** Label {@code i}, a token of the vocabulary or {@link #IGNORED}. */
    static int label(Tensor labels, int i, int vocabulary) {
        int label = integer(labels, i);
        if (label != IGNORED && (label < 0 || label >= vocabulary)) {
            throw DecoderFaults.label(i, label, vocabulary);
        }
        return label;
    }

    /** The value of {@code type} nearest to {@code value}. */
    static double round(DType type, double value) {
        return switch (type) {
            case F32 -> (float) value;
            case BF16 -> DType.bf16ToFloat(DType.floatToBf16((float) value));
            case F16 -> Float.float16ToFloat(Float.floatToFloat16((float) value));
            default -> value;
        };
    }

    private static double sigmoid(double x) {
        return 1 / (1 + StrictMath.exp(-x));
    }

    private static double dot(Tensor a, long aFrom, Tensor b, long bFrom, int n) {
        double sum = 0;
        for (int c = 0; c < n; c++) {
            sum += a.get(aFrom + c) * b.get(bFrom + c);
        }
        return sum;
    }

    private static void copyRow(Tensor from, long row, Tensor to, long toRow) {
        int n = from.cols();
        for (int c = 0; c < n; c++) {
            to.set(toRow * n + c, from.get(row * n + c));
        }
    }
}
