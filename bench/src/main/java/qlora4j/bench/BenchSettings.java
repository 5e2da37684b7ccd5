package qlora4j.bench;

import java.util.Set;
import qlora4j.bench.BenchRun.Target;
import qlora4j.blockwise.QuantConfig;
import qlora4j.optim.Residency;
import qlora4j.tensor.DType;

/**
 * What is timed.
 *
 * @param seconds about how long one figure may take
 * @param type the compute type
 * @param out rows of the kernels' matrix
 * @param in its columns
 * @param rank of the adapter
 * @param dropout on the adapter's inputs
 * @param batch sequences of a training step
 * @param length tokens of each
 * @param checkpointing whether layers are run again in the backward
 * @param prefill tokens of the prompt that prefill is timed with
 * @param prompt tokens of the prompt before decoding
 * @param newTokens tokens to decode at most
 * @param footprint bytes that the memory ceilings read and that the matvec's weights go round: more than a cache holds
 * @param resident how much of the optimizer's state stays on the device in a training step
 * @param offload whether the layers' inputs wait in host memory between forward and backward
 */
public record BenchSettings(double seconds, DType type, int out, int in, int rank, double dropout, int batch,
        int length, boolean checkpointing, int prefill, int prompt, int newTokens, long footprint, Residency resident,
        boolean offload) {
    /** How linear layers are held. */
    static final QuantConfig QUANTIZE = QuantConfig.QLORA;
    static final long SEED = 20;
    /** The usual footprint. */
    public static final long FOOTPRINT = 256L << 20;

    /** With all of the optimizer's state on the device. */
    public BenchSettings(double seconds, DType type, int out, int in, int rank, double dropout, int batch, int length,
            boolean checkpointing, int prefill, int prompt, int newTokens, long footprint) {
        this(seconds, type, out, in, rank, dropout, batch, length, checkpointing, prefill, prompt, newTokens, footprint,
                Residency.ALL, false);
    }

    public BenchSettings {
        if (!(seconds > 0 && seconds <= 3600)) {
            throw new IllegalArgumentException("--seconds " + seconds + ": must be above 0 and at most 3600");
        }
        if (type != DType.F32 && type != DType.BF16) {
            throw new IllegalArgumentException("--compute-dtype: float32 and bfloat16 can be timed");
        }
        if (footprint < 1 << 16) {
            throw new IllegalArgumentException("a footprint of " + footprint + " bytes: must be at least 65536");
        }
        atLeast("--matrix, rows", out, 1);
        atLeast("--matrix, columns", in, 1);
        atLeast("--lora-r", rank, 1);
        atLeast("--per-device-train-batch-size", batch, 1);
        atLeast("--max-seq-length", length, 2);
        atLeast("--prefill", prefill, 1);
        atLeast("--prompt-length", prompt, 1);
        atLeast("--max-new-tokens", newTokens, 2);
        if (!(dropout >= 0 && dropout < 1)) {
            throw new IllegalArgumentException("--lora-dropout " + dropout + ": must be at least 0 and below 1");
        }
    }

    private static void atLeast(String flag, int value, int least) {
        if (value < least) {
            throw new IllegalArgumentException(flag + " " + value + ": must be at least " + least);
        }
    }

    /** The longest sequence that these figures need. */
    int longest(Set<Target> targets) {
        int train = targets.contains(Target.TRAIN) ? length : 0;
        int decode = targets.contains(Target.DECODE) ? Math.max(prefill + 1, prompt + newTokens) : 0;
        return Math.max(train, decode);
    }

    /** The same with another time for each figure. */
    BenchSettings withSeconds(double each) {
        return new BenchSettings(each, type, out, in, rank, dropout, batch, length, checkpointing, prefill, prompt,
                newTokens, footprint, resident, offload);
    }

    /** What the compute type is called on the command line. */
    String typeName() {
        return type == DType.F32 ? "float32" : "bfloat16";
    }
}
