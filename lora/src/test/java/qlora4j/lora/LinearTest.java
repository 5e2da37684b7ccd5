package qlora4j.lora;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import qlora4j.blockwise.Blockwise;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What the linear layer refuses, and how it says so; biases of a slot's own. */
class LinearTest {
    private static final String NAME = "model.layers.4.mlp.up_proj";
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Stream S = SCALAR.openStream();

    private final LinearWeight weight = new LinearWeight.Dense(Tensor.zeros(DType.F32, 3, 5));
    private final Linear linear = new Linear(NAME, 0, weight, null);

    @AfterAll
    static void close() {
        S.close();
        SCALAR.close();
    }

    private static LoraPair pair(int out, int rank, int in) {
        return new LoraPair(Tensor.zeros(DType.F32, rank, in), Tensor.zeros(DType.F32, out, rank), 1);
    }

    @Test
    void anAdapterOfAnotherShapeNamesTheLayer() {
        assertThatIllegalArgumentException().isThrownBy(() -> linear.set(0, pair(3, 2, 6))).withMessageContainingAll(
                NAME, "[3, 5]", "[2, 6]", "another model");
        assertThatIllegalArgumentException().isThrownBy(() -> linear.set(0, pair(4, 2, 5))).withMessageContainingAll(
                NAME, "[4, 2]");
        assertThat(linear.get(0)).isNull();
    }

    /** A slot's own bias stands in the layer's place; other slots keep the layer's. */
    @Test
    void aSlotMayHaveABiasOfItsOwn() {
        Tensor bias = Tensor.of(new double[]{1, 2, 3}, 3);
        Tensor own = Tensor.of(new double[]{-4, 0.5, 8}, 3);
        Linear layer = new Linear(NAME, 0, new LinearWeight.Dense(Tensor.zeros(DType.F64, 3, 5).fill(1)), bias);
        assertThat(layer.name()).isEqualTo(NAME);
        assertThat(layer.bias()).isSameAs(bias);
        layer.setBias(1, own, null);
        Tensor x = Tensor.zeros(DType.F64, 2, 5).fill(0.25);
        for (int slot = 0; slot < 3; slot++) {
            Tensor y = Tensor.zeros(DType.F64, 2, 3).fill(Double.NaN);
            layer.forward(S, Adapters.of(slot), x, null, y);
            for (int i = 0; i < 6; i++) {
                assertThat(y.get(i)).as("slot %d", slot).isEqualTo(1.25 + (slot == 1 ? own : bias).get(i % 3));
            }
        }
        assertThatIllegalArgumentException().isThrownBy(() -> layer.setBias(0, Tensor.zeros(DType.F64, 4), null))
                .withMessageContainingAll(NAME, "has a bias of 3", "[4]", "another model");
        assertThatIllegalArgumentException().isThrownBy(() -> linear.setBias(0, own, null))
                .withMessageContainingAll(NAME, "has no bias");
    }

    @Test
    void aWeightHasTheBytesOfItsTensor() {
        assertThat(weight.bytes()).isEqualTo(3 * 5 * 4);
        QuantizedTensor w = Blockwise.quantize(S, Tensor.zeros(DType.F32, 2, 64), QuantConfig.QLORA);
        // 64 bytes of codes, a code for each of two blocks, one constant of the second level and the offset.
        assertThat(new LinearWeight.Quantized(w).bytes()).isEqualTo(64 + 2 + 4 + 4);
    }

    @Test
    void ranksOfAPairMustAgree() {
        assertThatIllegalArgumentException().isThrownBy(
                () -> new LoraPair(Tensor.zeros(DType.F32, 2, 5), Tensor.zeros(DType.F32, 3, 4), 1))
                .withMessageContainingAll("[2, 5]", "[3, 4]", "rank");
    }

    @Test
    void outputsMustNotOverlapInputs() {
        Linear square = new Linear(NAME, 0, new LinearWeight.Dense(Tensor.zeros(DType.F32, 4, 4)), null);
        Tensor memory = Tensor.zeros(DType.F32, 3, 4);
        assertThatIllegalArgumentException().isThrownBy(
                () -> square.forward(S, Adapters.NONE, memory.rows(0, 2), null, memory.rows(1, 3)))
                .withMessageContainingAll(NAME, "overlaps");
        assertThatIllegalArgumentException().isThrownBy(() -> square.backward(S, Adapters.NONE, memory.rows(0, 2),
                Tensor.zeros(DType.F32, 2, 4), null, false, memory.rows(1, 3)))
                .withMessageContainingAll(NAME, "overlaps");
    }

    @Test
    void shapesAreChecked() {
        Tensor x = Tensor.zeros(DType.F32, 2, 5);
        Tensor y = Tensor.zeros(DType.F32, 2, 3);
        assertThatIllegalArgumentException().isThrownBy(
                () -> linear.forward(S, Adapters.NONE, Tensor.zeros(DType.F32, 2, 4), null, y))
                .withMessageContainingAll(NAME, "[2, 4]");
        assertThatIllegalArgumentException().isThrownBy(
                () -> linear.forward(S, Adapters.NONE, x, null, Tensor.zeros(DType.BF16, 2, 3)))
                .withMessageContainingAll(NAME, "BF16");
        assertThatIllegalArgumentException().isThrownBy(
                () -> linear.forward(S, Adapters.NONE, x, Tensor.zeros(DType.F32, 1, 3), y))
                .withMessageContainingAll(NAME, "residual");
    }

    @Test
    void aQuantizedWeightHasNoGradient() {
        LinearWeight nf4 = Samples.quantized(S, Samples.random(1, DType.F32, 3, 5));
        assertThatIllegalArgumentException().isThrownBy(
                () -> new Linear(NAME, 0, nf4, null, Tensor.zeros(DType.F32, 3, 5), null))
                .withMessageContainingAll(NAME, "frozen");
    }

    @Test
    void dropoutMustBeAProbability() {
        for (double p : new double[]{-0.1, 1, Double.NaN}) {
            assertThatIllegalArgumentException().isThrownBy(() -> Samples.dropout(p, 1))
                    .withMessageContainingAll("--lora-dropout", "" + p);
        }
    }

    @Test
    void theRankIsTheLargestThatACallMayUse() {
        linear.set(0, pair(3, 2, 5));
        linear.set(2, pair(3, 4, 5));
        assertThat(linear.rank(Adapters.NONE)).isZero();
        assertThat(linear.rank(Adapters.of(0))).isEqualTo(2);
        assertThat(linear.rank(Adapters.of(1))).isZero();
        assertThat(linear.rank(Adapters.of(9))).isZero();
        assertThat(linear.rank(new Adapters(Adapters.NO_SLOT, Tensor.of(new int[]{0}, 1), null))).isEqualTo(4);
        linear.set(2, null);
        assertThat(linear.get(2)).isNull();
        assertThat(linear.rank(new Adapters(Adapters.NO_SLOT, Tensor.of(new int[]{0}, 1), null))).isEqualTo(2);
    }
}
