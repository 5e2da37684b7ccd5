package qlora4j.model;

import java.util.Arrays;
import qlora4j.tensor.Tensor;

/** Reference attention, one query of one head at a time: scores, softmax, weighted sum. Sums and exponentials in double. */
final class ScalarAttention {
    private ScalarAttention() {
    }

    static void forward(AttentionShape a, Tensor q, Tensor k, Tensor v, Tensor cuQ, Tensor kvStart, Tensor kvLen,
            Tensor out, Tensor lse) {
        int d = a.headDim();
        for (int s = 0; s < kvStart.size(); s++) {
            int q0 = ScalarDecoder.integer(cuQ, s);
            int qLen = ScalarDecoder.integer(cuQ, s + 1) - q0;
            int keys0 = ScalarDecoder.integer(kvStart, s);
            int before = ScalarDecoder.integer(kvLen, s) - qLen;
            for (int i = 0; i < qLen; i++) {
                int position = before + i;
                int first = firstKey(a, position);
                for (int h = 0; h < a.heads(); h++) {
                    int g = h / (a.heads() / a.kvHeads());
                    double[] query = head(q, q0 + i, h, d);
                    double[] scores = scores(a, query, k, keys0 + first, position - first + 1, g);
                    double sumExp = logSumExp(scores);
                    writeHead(out, q0 + i, h, weightedSum(probabilities(scores, sumExp), v, keys0 + first, g, d));
                    lse.set((long) (q0 + i) * a.heads() + h, sumExp);
                }
            }
        }
    }

    static void backward(AttentionShape a, Tensor dOut, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor cu,
            Tensor dq, Tensor dk, Tensor dv) {
        for (int s = 0; s + 1 < cu.size(); s++) {
            int from = ScalarDecoder.integer(cu, s);
            int to = ScalarDecoder.integer(cu, s + 1);
            for (int g = 0; g < a.kvHeads(); g++) {
                backwardOfKvHead(a, g, from, to, dOut, q, k, v, out, lse, dq, dk, dv);
            }
        }
    }

    /** The gradients of one sequence's keys and values of kv head {@code g}, and of all queries that read it. */
    private static void backwardOfKvHead(AttentionShape a, int g, int from, int to, Tensor dOut, Tensor q, Tensor k,
            Tensor v, Tensor out, Tensor lse, Tensor dq, Tensor dk, Tensor dv) {
        int d = a.headDim();
        int group = a.heads() / a.kvHeads();
        double[][] dKeys = new double[to - from][d];
        double[][] dValues = new double[to - from][d];
        for (int h = g * group; h < (g + 1) * group; h++) {
            for (int i = 0; i < to - from; i++) {
                int first = firstKey(a, i);
                double[] query = head(q, from + i, h, d);
                double[] dO = head(dOut, from + i, h, d);
                double[] scores = scores(a, query, k, from + first, i - first + 1, g);
                double[] p = probabilities(scores, lse.get((long) (from + i) * a.heads() + h));
                double delta = dot(dO, head(out, from + i, h, d));
                double[] dQuery = new double[d];
                for (int j = 0; j < p.length; j++) {
                    double dP = dot(dO, head(v, from + first + j, g, d));
                    double dS = p[j] * (dP - delta) * a.scale();
                    addScaled(dQuery, dS, head(k, from + first + j, g, d));
                    addScaled(dKeys[first + j], dS, query);
                    addScaled(dValues[first + j], p[j], dO);
                }
                writeHead(dq, from + i, h, dQuery);
            }
        }
        for (int j = 0; j < to - from; j++) {
            writeHead(dk, from + j, g, dKeys[j]);
            writeHead(dv, from + j, g, dValues[j]);
        }
    }

    /** The first key that the query at {@code position} sees. */
    static int firstKey(AttentionShape a, int position) {
        return a.window() == 0 ? 0 : Math.max(0, position - a.window() + 1);
    }

    /** {@code query·kᵀ/√D} for {@code n} keys from row {@code from}. */
    private static double[] scores(AttentionShape a, double[] query, Tensor k, long from, int n, int kvHead) {
        double[] scores = new double[n];
        for (int j = 0; j < n; j++) {
            scores[j] = dot(query, head(k, from + j, kvHead, query.length)) * a.scale();
        }
        return scores;
    }

    private static double logSumExp(double[] scores) {
        double max = Arrays.stream(scores).max().orElseThrow();
        double sum = 0;
        for (double x : scores) {
            sum += StrictMath.exp(x - max);
        }
        return max + StrictMath.log(sum);
    }

    private static double[] probabilities(double[] scores, double logSumExp) {
        double[] p = new double[scores.length];
        for (int j = 0; j < p.length; j++) {
            p[j] = StrictMath.exp(scores[j] - logSumExp);
        }
        return p;
    }

    private static double[] weightedSum(double[] p, Tensor v, long from, int kvHead, int d) {
        double[] sum = new double[d];
        for (int j = 0; j < p.length; j++) {
            addScaled(sum, p[j], head(v, from + j, kvHead, d));
        }
        return sum;
    }

    private static double dot(double[] x, double[] y) {
        double sum = 0;
        for (int c = 0; c < x.length; c++) {
            sum += x[c] * y[c];
        }
        return sum;
    }

    private static void addScaled(double[] sum, double factor, double[] x) {
        for (int c = 0; c < x.length; c++) {
            sum[c] += factor * x[c];
        }
    }

    /** The {@code d} elements of one head of one row. */
    private static double[] head(Tensor t, long row, int head, int d) {
        double[] x = new double[d];
        long at = row * t.cols() + (long) head * d;
        for (int c = 0; c < d; c++) {
            x[c] = t.get(at + c);
        }
        return x;
    }

    private static void writeHead(Tensor t, long row, int head, double[] x) {
        long at = row * t.cols() + (long) head * x.length;
        for (int c = 0; c < x.length; c++) {
            t.set(at + c, x[c]);
        }
    }
}
