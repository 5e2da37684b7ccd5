package qlora4j.bench.jmh;

import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.Warmup;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** The smaller operations of a decoder on 1024 rows: RMSNorm, rotary embeddings, SwiGLU, cross-entropy. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class LayerBenchmark {
    @Param("1024")
    int rows;
    @Param("576")
    int hidden;
    @Param("1536")
    int intermediate;
    @Param("49152")
    int vocab;

    static final int HEADS = 9;
    static final int KV_HEADS = 3;
    static final int HEAD_DIM = 64;
    private static final double EPS = 1e-5;
    /** Rows whose logits exist at once in a step. */
    static final int LOGIT_ROWS = 128;

    private Tensor x;
    private Tensor y;
    private Tensor dy;
    private Tensor weight;
    private Tensor rstd;
    private Tensor q;
    private Tensor k;
    private Tensor positions;
    private Tensor table;
    private Tensor gate;
    private Tensor up;
    private Tensor product;
    private Tensor logits;
    private Tensor labels;
    private Tensor scale;
    private Tensor nll;
    private Tensor loss;

    @Setup
    public void setUp(Bed bed) {
        x = bed.random(rows, hidden);
        y = bed.random(rows, hidden);
        dy = bed.random(rows, hidden);
        weight = bed.random(hidden);
        rstd = bed.zeros(DType.F32, rows);
        q = bed.random(rows, (long) HEADS * HEAD_DIM);
        k = bed.random(rows, (long) KV_HEADS * HEAD_DIM);
        positions = bed.ints(rows, 256);
        table = bed.random(DType.F32, 256, HEAD_DIM);
        gate = bed.random(rows, intermediate);
        up = bed.random(rows, intermediate);
        product = bed.random(rows, intermediate);
        logits = bed.random(DType.F32, LOGIT_ROWS, vocab);
        labels = bed.ints(LOGIT_ROWS, vocab);
        scale = bed.zeros(DType.F32, 1).fill(1e-3);
        nll = bed.zeros(DType.F32, LOGIT_ROWS);
        loss = bed.zeros(DType.F64, 1);
        rmsNorm(bed);
    }

    @Benchmark
    public Tensor rmsNorm(Bed bed) {
        DecoderOps.rmsNorm(bed.stream, x, weight, EPS, y, rstd);
        return y;
    }

    @Benchmark
    public Tensor rmsNormBackward(Bed bed) {
        DecoderOps.rmsNormBackward(bed.stream, dy, x, weight, rstd, null, y, null);
        return y;
    }

    @Benchmark
    public Tensor rope(Bed bed) {
        DecoderOps.rope(bed.stream, q, k, positions, table, HEAD_DIM, false);
        return q;
    }

    @Benchmark
    public Tensor swiglu(Bed bed) {
        DecoderOps.swiglu(bed.stream, gate, up, product);
        return product;
    }

    /** 128 rows, the gradient in place: repeated calls work on what the last left, which costs the same. */
    @Benchmark
    public Tensor crossEntropy(Bed bed) {
        DecoderOps.crossEntropy(bed.stream, logits, labels, scale, nll, loss, true);
        return loss;
    }
}
