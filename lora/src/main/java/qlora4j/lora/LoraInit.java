package qlora4j.lora;

import qlora4j.tensor.Philox;
import qlora4j.tensor.Tensor;

/** Initial values of an adapter: A random, B zero, so that an untrained adapter changes nothing (Hu et al. 2021). */
public final class LoraInit {
    /** Tells these numbers from all others under the same seed: a dropout step cannot count so far. */
    private static final int PURPOSE = 0x6c6f7241;

    private LoraInit() {
    }

    /** {@link #kaimingUniform} for A and zero for B. */
    public static void initialize(AdapterWeights adapter, long seed, int module) {
        kaimingUniform(adapter.a(), seed, module);
        zero(adapter.b());
    }

    /**
     * Kaiming's uniform initialization with a = √5, as PEFT's: the gain is √(2 / (1 + a²)) = √(1/3) and the bound
     * √3·gain/√in, so A is uniform in [-1/√in, 1/√in). A value depends on seed, module and its index alone.
     *
     * @param a [r, in], on the host; overwritten
     * @param module the module's number in the model
     */
    public static void kaimingUniform(Tensor a, long seed, int module) {
        host(a);
        if (a.rank() != 2) {
            throw new IllegalArgumentException("LoRA: A is " + a + "; it must have two dimensions, [r, in]");
        }
        Philox.Sequence draws = new Philox.Sequence(seed, PURPOSE, module);
        double bound = 1 / StrictMath.sqrt(a.cols());
        for (long i = 0; i < a.size(); i++) {
            a.set(i, (2.0 * draws.nextFloat() - 1) * bound);
        }
    }

    /** PEFT's {@code gaussian}: normal with deviation 1/r. The same numbers decide as for {@link #kaimingUniform}. */
    public static void gaussian(Tensor a, long seed, int module) {
        host(a);
        Philox.Sequence draws = new Philox.Sequence(seed, PURPOSE, module);
        for (long i = 0; i < a.size(); i++) {
            a.set(i, draws.nextGaussian() / a.rows());
        }
    }

    /** Zero, for B. On the host. */
    public static void zero(Tensor b) {
        host(b);
        b.data().fill((byte) 0);
    }

    private static void host(Tensor t) {
        if (!t.device().isHost()) {
            throw new IllegalArgumentException("LoRA: " + t + " is not in host memory; initialize a host copy");
        }
    }
}
