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
import qlora4j.model.AttentionShape;
import qlora4j.model.DecoderOps;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Causal attention with grouped queries, forward and backward, in SmolLM2-135M's shape. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class AttentionBenchmark {
    @Param("4")
    int sequences;
    @Param("256")
    int length;

    static final int HEADS = 9;
    static final int KV_HEADS = 3;
    static final int HEAD_DIM = 64;

    private AttentionShape shape;
    private Tensor q;
    private Tensor k;
    private Tensor v;
    private Tensor out;
    private Tensor lse;
    private Tensor dOut;
    private Tensor dq;
    private Tensor dk;
    private Tensor dv;
    private Tensor cu;
    private Tensor starts;
    private Tensor lengths;

    @Setup
    public void setUp(Bed bed) {
        shape = new AttentionShape(HEADS, KV_HEADS, HEAD_DIM, 0, length);
        int n = sequences * length;
        q = bed.random(n, HEADS * HEAD_DIM);
        k = bed.random(n, KV_HEADS * HEAD_DIM);
        v = bed.random(n, KV_HEADS * HEAD_DIM);
        out = bed.random(n, HEADS * HEAD_DIM);
        dOut = bed.random(n, HEADS * HEAD_DIM);
        dq = bed.random(n, HEADS * HEAD_DIM);
        dk = bed.random(n, KV_HEADS * HEAD_DIM);
        dv = bed.random(n, KV_HEADS * HEAD_DIM);
        lse = bed.zeros(DType.F32, n, HEADS);
        cu = bed.zeros(DType.I32, sequences + 1);
        lengths = bed.zeros(DType.I32, sequences);
        for (int i = 0; i <= sequences; i++) {
            cu.set(i, (double) i * length);
        }
        starts = cu.rows(0, sequences);
        lengths.fill(length);
        forward(bed);
    }

    @Benchmark
    public Tensor forward(Bed bed) {
        DecoderOps.attention(bed.stream, shape, q, k, v, cu, starts, lengths, out, lse);
        return out;
    }

    @Benchmark
    public Tensor backward(Bed bed) {
        DecoderOps.attentionBackward(bed.stream, shape, dOut, q, k, v, out, lse, cu, dq, dk, dv);
        return dq;
    }
}
