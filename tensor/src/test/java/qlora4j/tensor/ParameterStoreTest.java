package qlora4j.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import org.junit.jupiter.api.Test;

class ParameterStoreTest {
    private static ParameterStore.Builder mixed(DType dtype) {
        return ParameterStore.builder(dtype).add("a", 3, 5).addTo("no_decay", "norm", 7).add("b", 16);
    }

    @Test
    void layOutByGroupAlignedAndWithoutOverlap() {
        try (Backend backend = Backends.open("scalar"); ParameterStore store = mixed(DType.F32).build(backend)) {
            assertThat(store.names()).containsExactly("a", "norm", "b");
            assertThat(store.offset("a")).isZero();
            assertThat(store.offset("b")).isEqualTo(256);
            assertThat(store.offset("norm")).isEqualTo(512);
            assertThat(store.ranges()).containsExactly(new ParameterStore.Range(ParameterStore.DEFAULT_GROUP, 0, 512),
                    new ParameterStore.Range("no_decay", 512, 768));
            assertThat(store.parameters()).isEqualTo(15 + 7 + 16);
            assertThat(store.flatSize()).isEqualTo(768);
            for (ParameterStore.Parameter p : store.all()) {
                assertThat(p.value().data().address() % ArenaPlan.ALIGNMENT).isZero();
                assertThat(p.grad().data().address() % ArenaPlan.ALIGNMENT).isZero();
                p.value().fill(1);
                p.grad().fill(2);
            }
            assertThat(store.param("a").shape()).containsExactly(3, 5);
            double values = 0;
            double grads = 0;
            for (long i = 0; i < store.flatSize(); i++) {
                values += store.flatParams().get(i);
                grads += store.flatGrads().get(i);
            }
            assertThat(values).isEqualTo(store.parameters());
            assertThat(grads).isEqualTo(2.0 * store.parameters());
            assertThat(store.flatParams().get(15)).isZero();
            try (Stream stream = backend.openStream()) {
                store.zeroGrads(stream);
            }
            assertThat(store.flatGrads().toFloats()).containsOnly(0f);
            assertThat(store.param("norm").get(6)).isEqualTo(1);
        }
    }

    @Test
    void memoryIsCountedByUseAndReturned() {
        try (Backend backend = Backends.open("scalar")) {
            ParameterStore f64 = mixed(DType.F64).countedAs(MemoryUse.WEIGHTS).build(backend);
            assertThat(backend.ledger().held(MemoryUse.WEIGHTS)).isEqualTo(8 * 768);
            assertThat(backend.ledger().held(MemoryUse.GRADIENTS)).isEqualTo(8 * 768);
            f64.close();
            ParameterStore frozen = mixed(DType.F32).withoutGradients().build(backend);
            assertThat(backend.ledger().held(MemoryUse.ADAPTERS)).isEqualTo(4 * 768);
            assertThat(backend.ledger().held(MemoryUse.GRADIENTS)).isZero();
            assertThatThrownBy(() -> frozen.grad("a")).hasMessageContaining("without gradients");
            frozen.close();
            assertThat(backend.ledger().total()).isZero();
        }
    }

    @Test
    void planBackendKnowsShapesAlone() {
        try (Backend plan = new PlanBackend(); ParameterStore store = mixed(DType.F32).build(plan);
                Stream stream = plan.openStream()) {
            assertThat(plan.ledger().total()).isEqualTo(2 * 4 * 768);
            assertThat(store.grad("norm").shape()).containsExactly(7);
            assertThat(store.param("a").device()).isEqualTo(Device.PLAN);
            store.zeroGrads(stream);
        }
    }

    @Test
    void mistakesAreNamed() {
        try (Backend backend = Backends.open("scalar"); ParameterStore store = mixed(DType.F32).build(backend)) {
            assertThatThrownBy(() -> store.param("c")).isInstanceOf(IllegalArgumentException.class)
                    .hasMessageContaining("no trainable parameter c");
        }
        assertThatThrownBy(() -> mixed(DType.F32).add("a", 1)).hasMessageContaining("named a");
        assertThatThrownBy(() -> mixed(DType.F32).add("z", 0, 4)).hasMessageContaining("parameter z");
        assertThatThrownBy(() -> ParameterStore.builder(DType.BF16)).hasMessageContaining("BF16");
    }
}
