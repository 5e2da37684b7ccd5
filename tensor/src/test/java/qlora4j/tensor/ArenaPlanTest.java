package qlora4j.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatIllegalArgumentException;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.util.ArrayList;
import java.util.List;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.constraints.Size;
import org.junit.jupiter.api.Test;

/** Layouts of random steps. */
class ArenaPlanTest {
    /** A step that takes {@code n} elements where an action is positive, else releases one of the tensors alive. */
    private static List<Tensor> run(Stream s, List<Integer> actions, boolean check) {
        List<Tensor> alive = new ArrayList<>();
        for (int action : actions) {
            if (action > 0 || alive.isEmpty()) {
                Tensor taken = s.take(action % 3 == 0 ? DType.BF16 : DType.F32, Math.abs(action));
                for (Tensor other : alive) {
                    if (check) {
                        Aliasing.checkDisjoint("a step", taken, other);
                    }
                }
                alive.add(taken);
            } else {
                s.release(alive.remove(-action % alive.size()));
            }
        }
        return alive;
    }

    @Property(tries = 300)
    void tensorsAliveAtTheSameTimeNeverOverlap(@ForAll @Size(max = 60) List<@IntRange(min = -90, max = 90) Integer> a) {
        ArenaPlan plan = ArenaPlan.of(s -> run(s, a, false));
        try (CpuBackend backend = new CpuBackend(Backend.SCALAR, 1); Stream s = backend.openStream()) {
            Allocation arena = backend.allocate(Math.max(1, plan.bytes()), MemoryUse.ACTIVATIONS);
            for (int step = 0; step < 2; step++) {
                s.begin(plan, arena);
                for (Tensor t : run(s, a, true)) {
                    long at = t.data().address() - arena.data().address();
                    assertThat(at % ArenaPlan.ALIGNMENT).isZero();
                    assertThat(at).isBetween(0L, plan.bytes() - t.bytes());
                }
                s.end();
            }
        }
        assertThat(plan.lowerBound()).isLessThanOrEqualTo(plan.bytes());
    }

    @Test
    void memoryIsUsedAgain() {
        ArenaPlan plan = ArenaPlan.of(s -> {
            Tensor a = s.take(DType.F32, 100);
            Tensor b = s.take(DType.F32, 100);
            s.release(a);
            Tensor c = s.take(DType.F32, 90);
            s.release(b, c);
        });
        assertThat(plan.tensors()).isEqualTo(3);
        assertThat(plan.bytes()).isEqualTo(2 * 448).isEqualTo(plan.lowerBound());
    }

    @Test
    void aStepThatLeavesItsPlanIsAnError() {
        ArenaPlan plan = ArenaPlan.of(s -> s.release(s.take(DType.F32, 16)));
        try (CpuBackend backend = new CpuBackend(Backend.SCALAR, 1); Stream s = backend.openStream()) {
            Allocation small = backend.allocate(plan.bytes() - 1, MemoryUse.ACTIVATIONS);
            assertThatIllegalArgumentException().isThrownBy(() -> s.begin(plan, small)).withMessageContaining("64");
            Allocation arena = backend.allocate(plan.bytes(), MemoryUse.ACTIVATIONS);
            s.begin(plan, arena);
            assertThatThrownBy(() -> s.take(DType.F64, 1)).hasMessageContainingAll("plan", "F64[1]", "F32[16]");
            assertThatThrownBy(() -> s.take(DType.F32, 17)).hasMessageContainingAll("F32[17]", "F32[16]");
            assertThat(s.take(DType.F32, 3).size()).isEqualTo(3);
            assertThatThrownBy(() -> s.take(DType.F32, 1)).hasMessageContaining("none");
            s.end();
            s.begin(plan, arena);
            assertThatThrownBy(s::end).hasMessageContainingAll("0 of 1");
        }
    }
}
