package qlora4j.bench.jmh;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Level;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;
import qlora4j.safetensors.Safetensors;
import qlora4j.safetensors.SafetensorsWriter;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** Opening a checkpoint of 270 tensors, and reading all of its bytes into memory of the backend. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class SafetensorsBenchmark {
    static final int TENSORS = 270;

    /** Elements of each tensor, bfloat16. */
    @Param("500000")
    int elements;

    private Path file;
    private Tensor target;

    @Setup
    public void setUp(Bed bed) throws IOException {
        file = Files.createTempFile("qlora4j-bench", ".safetensors");
        Tensor one = bed.random(DType.BF16, elements);
        SafetensorsWriter writer = new SafetensorsWriter();
        for (int i = 0; i < TENSORS; i++) {
            writer.add("model.layers." + i + ".weight", one);
        }
        writer.write(file);
        target = bed.zeros(DType.BF16, elements);
    }

    @Benchmark
    public int open() throws IOException {
        try (Safetensors view = Safetensors.open(file)) {
            return view.names().size();
        }
    }

    @Benchmark
    public Tensor openAndRead(Bed bed) throws IOException {
        try (Safetensors view = Safetensors.open(file)) {
            for (String name : view.names()) {
                bed.backend.upload(view.tensor(name), target);
            }
        }
        return target;
    }

    @TearDown(Level.Trial)
    public void tearDown() throws IOException {
        Files.delete(file);
    }
}
