package qlora4j.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Map;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import qlora4j.blockwise.QuantConfig;
import qlora4j.blockwise.QuantType;
import qlora4j.model.DecoderFaults;
import qlora4j.optim.OptimKernels;
import qlora4j.optim.OptimScalars;

/** Numbers that the {@code .cu} files share with Java, and the arithmetic of launches. Needs no GPU. */
class CudaConstantsTest {
    private static final Path SOURCES = Path.of("src/main/cuda");
    private static final Map<String, Integer> SHARED = Map.of("LEARNING_RATE", OptimScalars.LEARNING_RATE,
            "CORRECTION1", OptimScalars.CORRECTION1, "CORRECTION2", OptimScalars.CORRECTION2, "GRAD_SCALE",
            OptimScalars.GRAD_SCALE, "SUM_OF_SQUARES", OptimScalars.SUM_OF_SQUARES, "GRAD_NORM",
            OptimScalars.GRAD_NORM, "CLIP_SCALE", OptimScalars.CLIP_SCALE, "CHUNK", OptimKernels.CHUNK, "PARTIALS",
            OptimKernels.PARTIALS);

    @ParameterizedTest
    @CsvSource({"adamw.cuh,4", "clip.cu,6"})
    void scalarsLieWhereJavaPutsThem(String source, int expected) throws IOException {
        Matcher m = Pattern.compile("^constexpr int (\\w+) = (\\d+);", Pattern.MULTILINE)
                .matcher(Files.readString(SOURCES.resolve(source)));
        int seen = 0;
        for (; m.find(); seen++) {
            assertThat(Integer.valueOf(m.group(2))).as("%s in %s", m.group(1), source)
                    .isEqualTo(SHARED.get(m.group(1)));
        }
        assertThat(seen).isEqualTo(expected);
    }

    @Test
    void everyFaultIsNamed() throws IOException {
        Matcher m = Pattern.compile("([A-Z_]+) = (\\d+)").matcher(Files.readString(SOURCES.resolve("fault.cuh")));
        int seen = 0;
        while (m.find()) {
            seen++;
            assertThat(CudaFaults.error(Integer.parseInt(m.group(2)), 3, 4, 5)).as(m.group(1))
                    .hasMessageNotContaining("a kernel reported fault").hasMessageContaining("row 3");
        }
        assertThat(seen).isEqualTo(6);
        assertThat(CudaFaults.error(1, 3, 4, 5)).hasMessage(DecoderFaults.token(3, 4, 5).getMessage());
        assertThat(CudaFaults.error(99, 3, 4, 5)).hasMessageContaining("a kernel reported fault 99");
    }

    @ParameterizedTest
    @CsvSource({"0,512,32", "2,512,32", "1024,512,32", "1025,512,64", "8192,512,256", "100000,512,512",
            "9000000000,1024,1024"})
    void threadsAreWholeWarps(long bytes, int most, int expected) {
        assertThat(CudaDecoder.threads(bytes, most)).isEqualTo(expected);
    }

    /** Tiles of gate and up stay together. */
    @ParameterizedTest
    @CsvSource({"1792,1,14", "1788,2,14", "2,1,2", "1788,1,14"})
    void gatedTilesGoInPairs(int tiles, int m, int perBlock) {
        CudaMatvec.Division d = CudaMatvec.divide(tiles, m, 4096,
                new QuantConfig(QuantType.NF4, 64, true), 2048, true, 132, 227 << 10);
        assertThat(d.tilesPerBlock()).isEqualTo(perBlock);
        assertThat(d.bytes()).isLessThan(227 << 10);
    }

    /** A block for each of 132 multiprocessors; x beside the table and the sums where it fits, else read by each warp. */
    @ParameterizedTest
    @CsvSource({"896,1,4096,64,7,true,true,true", "256,1,14336,64,2,true,true,true",
            "256,8,4096,64,2,true,true,false", "256,8,14336,64,2,false,false,false", "1,1,256,4096,1,true,true,false",
            "1,1,256,64,1,true,true,true",
            "896,1,4096,32,7,true,false,false", "896,2,4128,64,7,true,false,false", "896,3,4096,64,7,true,true,false",
            "100000,8,4096,64,280,false,false,false", "256,2,65536,64,2,false,false,false",
            "2112,2,256,64,16,true,true,true", "2113,2,256,64,17,true,true,false"})
    void matvecIsDivided(int tiles, int m, int in, int blocksize, int perBlock, boolean copies, boolean wide,
            boolean two) {
        CudaMatvec.Division d = CudaMatvec.divide(tiles, m, in,
                new QuantConfig(QuantType.NF4, blocksize, true), 0, false, 132, 227 << 10);
        assertThat(d.tilesPerBlock()).isEqualTo(perBlock);
        assertThat(d.copiesX()).isEqualTo(copies);
        assertThat(d.wide()).isEqualTo(wide);
        assertThat(d.two()).isEqualTo(two);
        assertThat(d.bytes()).isLessThan(227 << 10);
    }

    /** What {@link CudaSmallm} and {@link Nf4Units} size shared memory and grids by. */
    @ParameterizedTest
    @CsvSource({"smallm_hopper.cu,WARPS,8", "smallm_hopper.cu,STAGES,2", "smallm_hopper.cu,X_STAGES,3",
            "exact16.cuh,ROW_BYTES,256"})
    void sourcesHaveThePlacesJavaCounts(String source, String name, int expected) throws IOException {
        assertThat(Files.readString(SOURCES.resolve(source)))
                .containsPattern("(?m)^#define " + name + " " + expected + "$");
        Map<String, Integer> java = Map.of("WARPS", CudaSmallm.HOPPER_WARPS, "STAGES", CudaSmallm.STAGES, "X_STAGES",
                CudaSmallm.X_STAGES, "ROW_BYTES", Nf4Units.TABLE_BYTES / 256);
        assertThat(java.get(name)).isEqualTo(expected);
    }

    /** Two blocks of smallm_hopper.cu do not fit on one multiprocessor, one does. */
    @ParameterizedTest
    @ValueSource(ints = {16, 32, 64})
    void blocksHaveAMultiprocessorEach(int tokens) {
        assertThat(CudaSmallm.hopperBytes(tokens)).isBetween((227 << 10) / 2 + 1, 224 << 10);
    }

    /** 132 multiprocessors: tiles of 128 rows are split while there are too few, then helped, and from 132 on alone. */
    @ParameterizedTest
    @CsvSource({"64,14336,4096,112,1,20,2", "32,14336,4096,112,1,0,0", "64,4096,4096,32,4,0,0", "64,1024,4096,8,8,0,0",
            "64,4096,14336,32,4,0,0", "64,11008,4096,86,1,46,5", "64,8576,4096,67,1,65,5", "64,8572,4096,67,1,0,0",
            "64,8576,512,67,1,0,0", "64,8576,768,67,1,0,0", "64,8576,1024,67,1,65,1", "64,16640,4096,130,1,2,0",
            "64,16384,65536,128,1,4,7", "64,16384,65792,128,1,0,0", "64,16896,4096,132,1,0,0",
            "64,28672,8192,224,1,0,0",
            "64,4,256,1,1,0,0"})
    void rowsAreDivided(int tokens, int out, int in, int tiles, int parts, int helpers, int given) {
        CudaSmallm.Division d = CudaSmallm.divide(tokens, out, in, 132);
        assertThat(d).isEqualTo(new CudaSmallm.Division(tiles, parts, given == 0 ? 0 : helpers, given));
        if (given > 0) {
            assertThat(given * Math.ceilDiv(tiles, helpers)).as("a helper's units").isLessThan(in / 256 - given);
        }
    }
}
