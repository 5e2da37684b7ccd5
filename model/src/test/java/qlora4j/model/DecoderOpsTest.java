package qlora4j.model;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;
import qlora4j.tensor.PlanBackend;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** What the facade refuses, and that it needs shapes alone. */
class DecoderOpsTest {
    private static final Backend SCALAR = Backends.open("scalar", null, 1);
    private static final Backend CPU = Backends.open("cpu", null, 2);

    @AfterAll
    static void close() {
        SCALAR.close();
        CPU.close();
    }

    private static Tensor f32(long... shape) {
        return Tensor.zeros(DType.F32, shape);
    }

    private static Tensor i32(int... values) {
        return Tensor.of(values, values.length);
    }

    @Test
    void namesOperationAndTensor() {
        try (Stream s = SCALAR.openStream()) {
            assertThatThrownBy(() -> DecoderOps.rmsNorm(s, f32(2, 3), f32(4), 1, f32(2, 3), f32(2)))
                    .hasMessageContaining("rmsNorm: weight is F32[4], expected [3]");
            assertThatThrownBy(() -> DecoderOps.rmsNorm(s, f32(2, 3), f32(3), 1, f32(2, 3), Tensor.zeros(DType.F64, 2)))
                    .hasMessageContaining("rstd is F64[2], expected F32");
            Tensor x = f32(2, 3);
            assertThatThrownBy(() -> DecoderOps.rmsNorm(s, x, f32(3), 1, x, f32(2))).hasMessageContaining("overlaps");
            assertThatThrownBy(() -> DecoderOps.embedding(s, f32(2), f32(4, 3), f32(2, 3)))
                    .hasMessageContaining("tokens is F32[2], expected I32");
            assertThatThrownBy(() -> DecoderOps.rope(s, f32(2, 6), f32(2, 6), i32(0, 0), f32(4, 3), 3, false))
                    .hasMessageContaining("even headDim");
            assertThatThrownBy(() -> DecoderOps.attention(s, new AttentionShape(2, 1, 4, 0, 8), f32(3, 8), f32(3, 8),
                    f32(3, 8), i32(0, 3), i32(0), i32(3), f32(3, 8), f32(3, 2)))
                    .hasMessageContaining("attention: k is F32[3, 8], expected [3, 4]");
            Tensor both = f32(3, 4);
            assertThatThrownBy(() -> DecoderOps.swigluBackward(s, f32(2, 4), both.rows(0, 2), f32(2, 4),
                    both.rows(1, 3), f32(2, 4))).hasMessageContaining("overlaps");
            assertThatThrownBy(() -> DecoderOps.headLoss(s, f32(2, 3), f32(5, 3), i32(0, 0), f32(1), f32(2),
                    Tensor.zeros(DType.F64, 1), null, null, 0)).hasMessageContaining("chunkRows 0");
        }
    }

    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void namesBadContents(String backend) {
        try (Stream s = (backend.equals("cpu") ? CPU : SCALAR).openStream()) {
            assertThatThrownBy(() -> DecoderOps.embedding(s, i32(1, 9), f32(4, 3), f32(2, 3)))
                    .hasMessageContaining("token id 9 at row 1").hasMessageContaining("4 rows");
            assertThatThrownBy(() -> DecoderOps.embeddingBackward(s, i32(-1), f32(1, 3), f32(4, 3)))
                    .hasMessageContaining("token id -1");
            assertThatThrownBy(() -> DecoderOps.rope(s, f32(1, 4), f32(1, 4), i32(8), f32(8, 4), 4, false))
                    .hasMessageContaining("position 8").hasMessageContaining("8 positions");
            assertThatThrownBy(() -> DecoderOps.crossEntropy(s, f32(1, 4), i32(4), f32(1), f32(1),
                    Tensor.zeros(DType.F64, 1), false)).hasMessageContaining("label 4 of row 0");
        }
    }

    /** A NaN in the logits reaches the loss, where the trainer finds it. */
    @ParameterizedTest
    @ValueSource(strings = {"scalar", "cpu"})
    void nanIsNotLost(String backend) {
        try (Stream s = (backend.equals("cpu") ? CPU : SCALAR).openStream()) {
            for (int at = 0; at < 70; at++) {
                Tensor loss = Tensor.zeros(DType.F64, 1);
                Tensor logits = f32(1, 70);
                logits.set(at, Double.NaN);
                DecoderOps.crossEntropy(s, logits, i32(3), f32(1).fill(1), f32(1), loss, true);
                assertThat(loss.get(0)).isNaN();
                Tensor q = f32(1, 16);
                Tensor k = f32(70, 16);
                k.set(16L * at, Double.NaN);
                Tensor out = f32(1, 16);
                DecoderOps.attention(s, new AttentionShape(1, 1, 16, 0, 70), q, k, f32(70, 16), i32(0, 1), i32(0),
                        i32(70), out, f32(1, 1));
                assertThat(out.get(0)).isNaN();
                Tensor many = f32(70, 16);
                DecoderOps.attention(s, new AttentionShape(1, 1, 16, 0, 70), f32(70, 16), k, f32(70, 16), i32(0, 70),
                        i32(0), i32(70), many, f32(70, 1));
                assertThat(many.get(16L * 69)).isNaN();
            }
        }
    }

    @Test
    void aPlanNeedsShapesAlone() {
        try (PlanBackend plan = new PlanBackend(); Stream s = plan.openStream()) {
            Tensor h = Tensor.shapeOnly(DType.BF16, 10, 4);
            Tensor head = Tensor.shapeOnly(DType.BF16, 100, 4);
            DecoderOps.headLoss(s, h, head, Tensor.shapeOnly(DType.I32, 10), Tensor.shapeOnly(DType.F32, 1),
                    Tensor.shapeOnly(DType.F32, 10), Tensor.shapeOnly(DType.F64, 1),
                    Tensor.shapeOnly(DType.BF16, 10, 4),
                    Tensor.shapeOnly(DType.F32, 100, 4), 3);
            DecoderOps.swigluBackward(s, h, h, h, h, h);
            DecoderOps.rmsNorm(s, h, Tensor.shapeOnly(DType.BF16, 4), 1e-5, h, Tensor.shapeOnly(DType.F32, 10));
            // One chunk of logits, three rows of float32: never all of them.
            assertThat(plan.ledger().peak()).isEqualTo(3 * 100 * Float.BYTES);
        }
    }
}
