package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import qlora4j.model.AttentionShape;

/** The arithmetic of attention's launches. */
class CudaAttentionTest {
    /** However the rows are shared out among sequences, there are enough blocks, and not one too many for the fullest. */
    @Test
    void blocksCoverAllSequences() {
        Random random = new Random(1);
        for (int round = 0; round < 1000; round++) {
            int sequences = 1 + random.nextInt(9);
            int rows = 0;
            long needed = 0;
            for (int s = 0; s < sequences; s++) {
                int length = random.nextInt(4) == 0 ? 0 : random.nextInt(200);
                rows += length;
                needed += Math.ceilDiv(length, 64);
            }
            assertThat(CudaAttention.blocks(rows, sequences, 64)).isGreaterThanOrEqualTo(needed)
                    .isLessThanOrEqualTo(needed + sequences);
        }
    }

    /** 132 multiprocessors: about two blocks each, never fewer than 256 keys a block, never less than one. */
    @ParameterizedTest
    @CsvSource({"8,0,16384,33", "8,0,700,3", "8,0,257,2", "8,0,256,1", "8,0,0,1", "300,0,4096,1", "8,300,4096,2",
            "264,0,4096,1", "132,0,4096,2"})
    void keysAreSplitToFillTheGpu(long units, int window, int keys, int splits) {
        assertThat(CudaAttention.splits(new AttentionShape(32, 8, 128, window, keys), units, 132)).isEqualTo(splits);
    }

    /** Parts divide a group, and are no more than it takes for two tiles a multiprocessor. */
    @ParameterizedTest
    @CsvSource({"32,8,17,2", "32,8,4,4", "32,8,68,1", "32,8,33,1", "32,32,1,1", "24,4,10,6", "24,4,30,3", "64,8,5,8"})
    void headsAreSharedWhereTilesAreFew(int heads, int kvHeads, long blocks, int parts) {
        assertThat(CudaAttention.parts(new AttentionShape(heads, kvHeads, 128, 0, 1), blocks, 132)).isEqualTo(parts);
    }
}
