package qlora4j.optim;

import static qlora4j.optim.AdamConstants.round;

import java.util.Arrays;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The reference: loops that read as the equations of {@link OptimKernels}. */
class ScalarOptim implements OptimKernels {
    /** Keeps the clipping factor finite at norm zero; the value of {@code torch.nn.utils.clip_grad_norm_}. */
    static final double CLIP_EPSILON = 1e-6;

    @Override
    public void adamW(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor expAvg, Tensor expAvgSq,
            Tensor scalars) {
        AdamConstants c = AdamConstants.of(hyper, scalars, params.dtype());
        adamW(hyper.formula(), c, 0, params.size(), params, grads, expAvg, expAvgSq);
    }

    static void adamW(AdamHyper.Formula formula, AdamConstants c, long from, long to, Tensor params, Tensor grads,
            Tensor expAvg, Tensor expAvgSq) {
        for (long i = from; i < to; i++) {
            switch (formula) {
                case TORCH -> torch(c, i, params, grads, expAvg, expAvgSq);
                case BITSANDBYTES -> bitsandbytes(c, i, params, grads, expAvg, expAvgSq);
            }
        }
    }

    private static void torch(AdamConstants c, long i, Tensor params, Tensor grads, Tensor expAvg, Tensor expAvgSq) {
        DType t = params.dtype();
        double g = round(t, grads.get(i) * c.gradScale());
        double p = round(t, params.get(i) * c.decay());
        double m = expAvg.get(i);
        m = round(t, m + round(t, c.oneMinusBeta1() * round(t, g - m)));
        double v = expAvgSq.get(i);
        v = round(t, round(t, v * c.beta2()) + round(t, c.oneMinusBeta2() * round(t, g * g)));
        double denominator = round(t, round(t, round(t, Math.sqrt(v)) / c.correction2()) + c.epsilon());
        p = round(t, p + round(t, c.stepSize() * round(t, m / denominator)));
        params.set(i, p);
        expAvg.set(i, m);
        expAvgSq.set(i, v);
    }

    private static void bitsandbytes(AdamConstants c, long i, Tensor params, Tensor grads, Tensor expAvg,
            Tensor expAvgSq) {
        DType t = params.dtype();
        double g = round(t, grads.get(i) * c.gradScale());
        double m = round(t, round(t, expAvg.get(i) * c.beta1()) + round(t, c.oneMinusBeta1() * g));
        double v = round(t, round(t, expAvgSq.get(i) * c.beta2()) + round(t, round(t, c.oneMinusBeta2() * g) * g));
        double denominator = round(t, round(t, Math.sqrt(v)) + c.epsilon());
        double p = round(t, params.get(i) + round(t, c.stepSize() * round(t, m / denominator)));
        params.set(i, round(t, p * c.decay()));
        expAvg.set(i, m);
        expAvgSq.set(i, v);
    }

    @Override
    public void sumOfSquares(Stream stream, Tensor x, Tensor chunkSums, Tensor scalars) {
        double[] partial = new double[PARTIALS];
        for (long chunk = 0; chunk < chunkSums.size(); chunk++) {
            chunkSums.set(chunk, sumChunk(x, chunk, partial));
        }
        addChunks(chunkSums, scalars);
    }

    static double sumChunk(Tensor x, long chunk, double[] partial) {
        Arrays.fill(partial, 0);
        long from = chunk * CHUNK;
        long to = Math.min(from + CHUNK, x.size());
        for (long i = from; i < to; i++) {
            double value = x.get(i);
            partial[(int) (i - from) % PARTIALS] += value * value;
        }
        return addPartials(partial);
    }

    static double addPartials(double[] partial) {
        double sum = 0;
        for (double p : partial) {
            sum += p;
        }
        return sum;
    }

    static void addChunks(Tensor chunkSums, Tensor scalars) {
        double sum = 0;
        for (long chunk = 0; chunk < chunkSums.size(); chunk++) {
            sum += chunkSums.get(chunk);
        }
        scalars.set(OptimScalars.SUM_OF_SQUARES, sum);
    }

    @Override
    public void clipScale(Stream stream, double maxNorm, Tensor scalars) {
        double gradScale = scalars.get(OptimScalars.GRAD_SCALE);
        double norm = gradScale * Math.sqrt(scalars.get(OptimScalars.SUM_OF_SQUARES));
        scalars.set(OptimScalars.GRAD_NORM, norm);
        scalars.set(OptimScalars.CLIP_SCALE, gradScale * Math.min(1, maxNorm / (norm + CLIP_EPSILON)));
    }

    @Override
    public void nonFinite(Stream stream, Tensor x, Tensor count) {
        count.set(0, nonFinite(x, 0, x.size()));
    }

    static long nonFinite(Tensor x, long from, long to) {
        long bad = 0;
        for (long i = from; i < to; i++) {
            if (!Double.isFinite(x.get(i))) {
                bad++;
            }
        }
        return bad;
    }
}
