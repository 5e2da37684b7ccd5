package qlora4j.bench.jmh;

import java.util.function.ToLongFunction;
import java.util.function.UnaryOperator;
import qlora4j.bench.BenchSettings;
import qlora4j.bench.Ceilings;
import qlora4j.bench.Shapes;
import qlora4j.bench.Work;
import qlora4j.model.DecoderConfig;
import qlora4j.tensor.DType;

/**
 * What one call of a benchmark gives, and what it must cost at least.
 *
 * @param amount what it gives, in the unit
 * @param unit of a rate: {@code GFLOP/s}, {@code GB/s}, {@code tok/s}
 * @param flops operations; a multiply-add is two
 * @param read bytes that are only read
 * @param moved bytes that are read or written where both are
 * @param footprint bytes of the arrays that the memory ceilings go over: as many as the call itself where it may find
 *        them in a cache
 */
record Cost(double amount, String unit, double flops, double read, double moved, long footprint) {
    private static final long LEAST_FOOTPRINT = 1 << 16;
    /** Bytes of a float32 element. */
    private static final int F32 = 4;
    /** Bytes an element of Jlama's Q4: a block of 32 is 16 bytes of codes and a float32. */
    private static final double JLAMA_BYTES = 20.0 / 32;
    /** What AdamW and clipping move for a parameter: clipping reads g; the update reads p, g, m, v and writes p, m, v. */
    private static final int OPTIMIZER_BYTES = 8 * F32;

    static Cost flops(double n) {
        return new Cost(n / 1e9, "GFLOP/s", n, 0, 0, BenchSettings.FOOTPRINT);
    }

    static Cost read(double bytes) {
        return new Cost(bytes / 1e9, "GB/s", 0, bytes, 0, BenchSettings.FOOTPRINT);
    }

    static Cost moved(double bytes) {
        return new Cost(bytes / 1e9, "GB/s", 0, 0, bytes, BenchSettings.FOOTPRINT);
    }

    /** Moved bytes of arrays that are the same at every call, so that a cache may hold them. */
    private static Cost again(double bytes) {
        long footprint = Math.clamp((long) bytes, LEAST_FOOTPRINT, BenchSettings.FOOTPRINT);
        return new Cost(bytes / 1e9, "GB/s", 0, 0, bytes, footprint);
    }

    /** The time it takes where every part of the cost is at its ceiling. */
    double leastSeconds(Ceilings c) {
        return part(flops, c.flops()) + part(read, c.read()) + part(moved, c.copy());
    }

    private static double part(double cost, double perSecond) {
        return cost == 0 ? 0 : cost / perSecond;
    }

    /**
     * The cost of a benchmark with its parameters; null for {@code SafetensorsBenchmark.open}, which has no ceiling.
     *
     * @param benchmark class and method, as in {@code ProductBenchmark.forward}
     * @param text a parameter's value by its name
     */
    static Cost of(String benchmark, UnaryOperator<String> text) {
        ToLongFunction<String> p = name -> Long.parseLong(text.apply(name));
        return switch (benchmark) {
            case "ProductBenchmark.forward", "ProductBenchmark.backward", "OpenBlasBenchmark.forward",
                    "OpenBlasBenchmark.backward" ->
                product(benchmark, elements(text), p.applyAsLong("m"));
            case "JlamaBenchmark.matvec" -> read(JLAMA_BYTES * elements(text));
            case "QuantizeBenchmark.quantize", "QuantizeBenchmark.dequantize" ->
                moved(elements(text) * type(text) + quantized(elements(text)));
            case "AttentionBenchmark.forward" -> flops(attention(p));
            case "AttentionBenchmark.backward" -> flops(Work.ATTENTION_BACKWARD * attention(p));
            case "LayerBenchmark.rmsNorm" -> again(2.0 * p.applyAsLong("rows") * p.applyAsLong("hidden") * type(text));
            case "LayerBenchmark.rmsNormBackward" ->
                again(3.0 * p.applyAsLong("rows") * p.applyAsLong("hidden") * type(text));
            case "LayerBenchmark.rope" -> again(2.0 * p.applyAsLong("rows")
                    * (LayerBenchmark.HEADS + LayerBenchmark.KV_HEADS) * LayerBenchmark.HEAD_DIM * type(text));
            case "LayerBenchmark.swiglu" ->
                again(3.0 * p.applyAsLong("rows") * p.applyAsLong("intermediate") * type(text));
            case "LayerBenchmark.crossEntropy" ->
                again(2.0 * LayerBenchmark.LOGIT_ROWS * p.applyAsLong("vocab") * F32);
            case "OptimizerBenchmark.step" -> moved((double) OPTIMIZER_BYTES * p.applyAsLong("parameters"));
            case "SafetensorsBenchmark.openAndRead" ->
                read((double) SafetensorsBenchmark.TENSORS * p.applyAsLong("elements") * DType.BF16.bytes());
            case "SafetensorsBenchmark.open" -> null;
            case "ModelBenchmark.trainingStep", "ModelBenchmark.prefill", "ModelBenchmark.decode" ->
                model(benchmark, Shapes.named(text.apply("shape")), p, type(text));
            default -> throw new IllegalArgumentException(benchmark + ": what it costs is not known here");
        };
    }

    private static double elements(UnaryOperator<String> text) {
        int[] size = Sizes.matrix(text.apply("matrix"));
        return (double) size[0] * size[1];
    }

    private static int type(UnaryOperator<String> text) {
        return text.apply("type").equals("bfloat16") ? DType.BF16.bytes() : DType.F32.bytes();
    }

    /** Bytes of a matrix in NF4 with double quantization: codes, constants, constants of those. */
    private static double quantized(double elements) {
        return elements / 2 + elements / 64 + F32 * elements / 64 / 256;
    }

    private static Cost product(String benchmark, double elements, long m) {
        return benchmark.equals("ProductBenchmark.forward") && m == 1 ? read(quantized(elements))
                : flops(2 * m * elements);
    }

    private static double attention(ToLongFunction<String> p) {
        double length = p.applyAsLong("length");
        return p.applyAsLong("sequences") * 4.0 * AttentionBenchmark.HEADS * AttentionBenchmark.HEAD_DIM * length
                * (length + 1) / 2;
    }

    private static Cost model(String benchmark, DecoderConfig c, ToLongFunction<String> p, int type) {
        int rows = (int) p.applyAsLong("batch");
        int length = (int) p.applyAsLong("length");
        int prompt = (int) p.applyAsLong("prompt");
        if (benchmark.endsWith("trainingStep")) {
            double work = Work.step(c, (int) p.applyAsLong("rank"), rows, length, false);
            return new Cost((double) rows * length, "tok/s", work, 0, 0, BenchSettings.FOOTPRINT);
        }
        if (benchmark.endsWith("prefill")) {
            int prefill = (int) p.applyAsLong("prefill");
            return new Cost(prefill, "tok/s", Work.prefill(c, prefill), 0, 0, BenchSettings.FOOTPRINT);
        }
        int n = ModelBenchmark.NEW_TOKENS;
        long linear = (long) quantized(Work.linearParameters(c));
        long head = (long) c.vocab() * c.hidden() * type;
        double bytes = (n - 1) * Work.decodeBytes(c, linear, head, type, prompt + n / 2.0);
        return new Cost(n, "tok/s", Work.prefill(c, prompt), bytes, 0, BenchSettings.FOOTPRINT);
    }
}
