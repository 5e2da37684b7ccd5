package qlora4j.tensor;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;

/** Pieces of slabs are zeroed, apart from each other, and usable until their own owner is closed, in any order. */
class HostSlabsTest {
    private record Piece(Arena owner, MemorySegment memory, byte mark) {
    }

    @Test
    void piecesAreApart() {
        SplittableRandom random = new SplittableRandom(1);
        List<Piece> pieces = new ArrayList<>();
        try (HostSlabs slabs = new HostSlabs()) {
            for (int i = 0; i < 60; i++) {
                long bytes = i % 20 == 7 ? HostSlabs.LARGEST
                        : i % 20 == 9 ? HostSlabs.LARGEST + 1
                                : random.nextLong(1, 100_000);
                Arena owner = Arena.ofShared();
                MemorySegment memory = slabs.allocate(bytes, owner);
                assertThat(memory.byteSize()).isEqualTo(bytes);
                assertThat(memory.address() % 64).isZero();
                assertThat(memory.get(ValueLayout.JAVA_BYTE, 0)).isZero();
                assertThat(memory.asSlice(0, bytes - 1).mismatch(memory.asSlice(1))).isEqualTo(-1);
                byte mark = (byte) (i + 1);
                memory.fill(mark);
                pieces.add(new Piece(owner, memory, mark));
                if (i % 3 == 2) {
                    Piece gone = pieces.remove(random.nextInt(pieces.size()));
                    gone.owner.close();
                    assertThatThrownBy(() -> gone.memory.get(ValueLayout.JAVA_BYTE, 0))
                            .isInstanceOf(IllegalStateException.class);
                }
            }
        }
        while (!pieces.isEmpty()) {
            for (Piece p : pieces) {
                long bytes = p.memory.byteSize();
                assertThat(p.memory.get(ValueLayout.JAVA_BYTE, bytes / 2)).isEqualTo(p.mark);
                assertThat(p.memory.asSlice(0, bytes - 1).mismatch(p.memory.asSlice(1))).isEqualTo(-1);
            }
            pieces.remove(random.nextInt(pieces.size())).owner.close();
        }
    }
}
