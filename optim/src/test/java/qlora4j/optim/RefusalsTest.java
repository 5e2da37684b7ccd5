package qlora4j.optim;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.ParameterStore;
import qlora4j.tensor.PlanBackend;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What does not fit is refused, and named, before a kernel sees it; what is just within its limits is not. */
class RefusalsTest {
    private static final Backend SCALAR = Backends.open(Backend.SCALAR);
    private static final Stream S = SCALAR.openStream();
    private static final AdamHyper H = AdamHyper.defaults(AdamHyper.Formula.BITSANDBYTES);
    private static final int N = 300;

    private record Call(String what, ThrowingCallable call, String message) {
        @Override
        public String toString() {
            return what;
        }
    }

    private static Tensor f32(long n) {
        return Tensor.zeros(DType.F32, n);
    }

    private static Tensor u8(long n) {
        return Tensor.zeros(DType.U8, n);
    }

    private static Tensor scalars() {
        return Bits.scalars(1e-3, 0.1, 0.1, 1);
    }

    /** What adamW8 takes, all of it good. */
    private static Tensor[] good() {
        return new Tensor[]{f32(N), f32(N), u8(N), u8(N), f32(2), f32(2), scalars()};
    }

    private static void adamW8(Tensor[] t) {
        Optim.adamW8(S, H.withEightBit(), t[0], t[1], t[2], t[3], t[4], t[5], t[6]);
    }

    private static Call with(int operand, Tensor bad, String message) {
        Tensor[] t = good();
        t[operand] = bad;
        return new Call("operand " + operand + " is " + bad, () -> adamW8(t), message);
    }

    static List<Call> eightBits() {
        List<Call> calls = new ArrayList<>(List.of(
                with(0, Tensor.zeros(DType.F64, N), "params is F64[300], must be F32"),
                with(1, f32(N - 1), "grads is F32[299], must be F32 with 300"),
                with(2, f32(N), "codes1 is F32[300], must be U8"),
                with(3, u8(N + 1), "codes2 is U8[301], must be U8 with 300"),
                with(4, f32(1), "absmax1 is F32[1], must be F32 with 2"),
                with(5, Tensor.zeros(DType.F64, 2), "absmax2 is F64[2], must be F32"),
                with(6, f32(8), "scalars is F32[8]")));
        // Each pair of operands of one type on the same memory.
        for (int[] pair : new int[][]{{0, 1}, {2, 3}, {4, 5}}) {
            Tensor[] t = good();
            t[pair[1]] = t[pair[0]];
            calls.add(new Call(pair[0] + " and " + pair[1] + " are one", () -> adamW8(t), "share memory"));
        }
        Tensor[] t = good();
        t[4] = t[0].slice(0, 2);
        calls.add(new Call("constants among the parameters", () -> adamW8(t), "share memory"));
        return calls;
    }

    static List<Call> others() {
        Tensor half = Tensor.zeros(DType.BF16, 4);
        return List.of(
                new Call("adamW of bfloat16", () -> Optim.adamW(S, H, half, half, half, half, scalars()),
                        "params is BF16[4], must be F32 or F64"),
                new Call("norm of bfloat16", () -> Optim.clip(S, half, 1, scalars()), "grads is BF16[4]"),
                new Call("norm into float32", () -> Optim.clip(S, f32(4), 1, f32(8)), "scalars is F32[8]"),
                new Call("norm into too few", () -> Optim.clip(S, f32(4), 1, Tensor.zeros(DType.F64, 7)),
                        "scalars is F64[7]"),
                new Call("counting in bfloat16", () -> Optim.nonFinite(S, half), "x is BF16[4]"),
                new Call("host pages of a device", () -> HostPageStore.on(new PlanBackend()),
                        "host pages need a host backend"));
    }

    @ParameterizedTest
    @MethodSource({"eightBits", "others"})
    void whatDoesNotFitIsNamed(Call call) {
        assertThatIllegalArgumentException().isThrownBy(call.call).withMessageContaining(call.message);
    }

    /** Tensors that lie side by side share nothing. */
    @Test
    void neighboursAreApart() {
        Tensor all = f32(4 * 8);
        Tensor[] t = {all.slice(16, 8), all.slice(0, 8), all.slice(8, 8), all.slice(24, 8)};
        t[1].fill(1);
        Optim.adamW(S, H, t[0], t[1], t[2], t[3], scalars());
        assertThat(t[0].toFloats()).doesNotContain(0f);
        assertThatIllegalArgumentException()
                .isThrownBy(() -> Optim.adamW(S, H, t[0], t[1], t[2], all.slice(23, 8), scalars()))
                .withMessageContaining("params and expAvgSq share memory");
    }

    @ParameterizedTest
    @CsvSource({"0, 0, 0, 0, 0", "0.99, 0.5, 1e300, 1e300, 1e300"})
    void limitsAreAllowed(double beta1, double beta2, double epsilon, double decay, double scale) {
        AdamHyper h = new AdamHyper(AdamHyper.Formula.BITSANDBYTES, beta1, beta2, epsilon, decay, scale);
        assertThat(h.eightBit()).isFalse();
        assertThat(h.withEightBit()).isEqualTo(new AdamHyper(h.formula(), beta1, beta2, epsilon, decay, scale, true));
        assertThat(h.withLearningRateScale(0.5))
                .isEqualTo(new AdamHyper(h.formula(), beta1, beta2, epsilon, decay, 0.5));
    }

    @ParameterizedTest
    @CsvSource({"1, 0.9, 0, 0, 1, --adam-beta1 1.0", "-0.1, 0.9, 0, 0, 1, --adam-beta1 -0.1",
            "0.9, 1, 0, 0, 1, --adam-beta2 1.0", "0.9, -0.1, 0, 0, 1, --adam-beta2 -0.1",
            "0.9, 0.9, -1, 0, 1, --adam-epsilon -1.0", "0.9, 0.9, Infinity, 0, 1, --adam-epsilon Infinity",
            "0.9, 0.9, NaN, 0, 1, --adam-epsilon NaN", "0.9, 0.9, 0, -1, 1, --weight-decay -1.0",
            "0.9, 0.9, 0, Infinity, 1, --weight-decay Infinity", "0.9, 0.9, 0, 0, -1, learning-rate scale -1.0",
            "0.9, 0.9, 0, 0, Infinity, learning-rate scale Infinity"})
    void whatIsBeyondIsNamed(double beta1, double beta2, double epsilon, double decay, double scale, String message) {
        assertThatIllegalArgumentException().isThrownBy(
                () -> new AdamHyper(AdamHyper.Formula.TORCH, beta1, beta2, epsilon, decay, scale))
                .withMessageStartingWith(message + ": must be");
    }

    @Test
    void anOptimizersLimits() {
        AdamHyper torch = AdamHyper.defaults(AdamHyper.Formula.TORCH);
        assertThatIllegalArgumentException().isThrownBy(torch::withEightBit)
                .withMessage("8-bit AdamW is bitsandbytes' formula, not TORCH");
        // Two moments of 4 bytes; two codes, and two constants of 4 bytes for each block of 256.
        assertThat(AdamW.stateBytes(torch, DType.F32, 1000)).isEqualTo(8000);
        assertThat(AdamW.stateBytes(H.withEightBit(), DType.F32, 1000)).isEqualTo(2000 + 2 * 4 * 4);
        try (ParameterStore store = ParameterStore.builder().add("w", 3).addTo("norms", "n", 5).build(SCALAR)) {
            for (AdamHyper other : List.of(AdamHyper.defaults(AdamHyper.Formula.BITSANDBYTES),
                    new AdamHyper(torch.formula(), 0.8, 0.999, 1e-8, 0, 1),
                    new AdamHyper(torch.formula(), 0.9, 0.99, 1e-8, 0, 1))) {
                assertThatIllegalArgumentException()
                        .isThrownBy(() -> new AdamW(SCALAR, store,
                                Map.of(ParameterStore.DEFAULT_GROUP, torch, "norms", other), Residency.ALL, null))
                        .withMessageStartingWith("all groups must have the same formula, betas and states");
            }
            try (AdamW adam = new AdamW(SCALAR, store, Map.of(ParameterStore.DEFAULT_GROUP, torch), Residency.ALL,
                    null)) {
                assertThatCode(() -> adam.prepare(0, Double.MIN_VALUE)).doesNotThrowAnyException();
                for (double[] bad : new double[][]{{-1e-9, 1}, {Double.POSITIVE_INFINITY, 1}, {1, -1},
                        {1, Double.POSITIVE_INFINITY}}) {
                    assertThatIllegalArgumentException().isThrownBy(() -> adam.prepare(bad[0], bad[1]))
                            .withMessageContaining(": must be finite");
                }
                assertThat(adam.step()).as("what is refused is no step").isEqualTo(1);
                adam.resumeAt(0);
                assertThat(adam.step()).isZero();
                assertThatIllegalArgumentException().isThrownBy(() -> adam.resumeAt(-1))
                        .withMessage("a checkpoint at step -1");
            }
        }
    }
}
