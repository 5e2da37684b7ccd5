package qlora4j.bench.jmh;

import com.github.tjake.jlama.safetensors.DType;
import com.github.tjake.jlama.tensor.AbstractTensor;
import com.github.tjake.jlama.tensor.FloatBufferTensor;
import com.github.tjake.jlama.tensor.Q4ByteBufferTensor;
import com.github.tjake.jlama.tensor.operations.PanamaTensorOperations;
import com.github.tjake.jlama.tensor.operations.TensorOperations;
import com.github.tjake.jlama.util.MachineSpec;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;
import qlora4j.tensor.Team;

/**
 * Jlama's matvec with Q4 weights (blocks of 32, evenly spaced codes), its Vector API kernels: beside
 * {@link ProductBenchmark#forward} of one row. Its matrix is split among threads as ours is. By default Jlama quantizes
 * the vector to 8 bits too, which ours does not.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class JlamaBenchmark {
    private static final int COPIES = 8;

    /** Rows x columns of W. */
    @Param("4096x14336")
    String matrix;
    /** How x is held: float32, or int8 as Jlama does by default. */
    @Param({"float32", "int8"})
    String vector;
    /** 0: all processors. */
    @Param("0")
    int threads;

    private final TensorOperations operations = new PanamaTensorOperations(MachineSpec.VECTOR_TYPE);
    private final AbstractTensor<?, ?>[] w = new AbstractTensor<?, ?>[COPIES];
    private AbstractTensor<?, ?> x;
    private FloatBufferTensor y;
    private Team team;
    private int rows;
    private int columns;
    private int turn;

    @Setup
    public void setUp() {
        team = new Team(threads == 0 ? Runtime.getRuntime().availableProcessors() : threads);
        int[] size = Sizes.matrix(matrix);
        rows = size[0];
        columns = size[1];
        FloatBufferTensor dense = random(rows, columns);
        for (int i = 0; i < COPIES; i++) {
            w[i] = new Q4ByteBufferTensor(dense);
        }
        FloatBufferTensor vectorValues = random(1, columns);
        x = vector.equals("int8") ? operations.quantize(vectorValues, DType.I8, 0, columns) : vectorValues;
        y = new FloatBufferTensor(1, rows);
    }

    private static FloatBufferTensor random(int rows, int columns) {
        FloatBufferTensor t = new FloatBufferTensor(rows, columns);
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < columns; j++) {
                t.set((((long) i * columns + j) * 2654435761L >>> 8 & 0xffff) / 65536f - 0.5f, i, j);
            }
        }
        return t;
    }

    @Benchmark
    public FloatBufferTensor matvec() {
        AbstractTensor<?, ?> weights = w[turn++ % COPIES];
        int pieces = team.size() * 4;
        team.run(pieces, (i, _) -> {
            int from = (int) ((long) rows * i / pieces);
            int to = (int) ((long) rows * (i + 1) / pieces);
            operations.dotProductChunk(y, x, weights, 0, columns, from, to - from);
        });
        return y;
    }

    @TearDown
    public void tearDown() {
        team.close();
    }
}
