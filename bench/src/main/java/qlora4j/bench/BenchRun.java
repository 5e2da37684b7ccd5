package qlora4j.bench;

import java.io.IOException;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.Consumer;
import qlora4j.lora.LoraConfig;
import qlora4j.model.Adapter;
import qlora4j.model.Decoder;
import qlora4j.model.DecoderConfig;
import qlora4j.tensor.Backend;
import qlora4j.tensor.CpuBackend;

/** Runs what was asked for, printing each figure as soon as it is known. */
public final class BenchRun {
    /** What can be timed. Ceilings are always measured, and first. */
    public enum Target {
        CEILINGS, KERNELS, TRAIN, DECODE;

        /** Whether it needs a model. */
        public boolean needsModel() {
            return this == TRAIN || this == DECODE;
        }
    }

    /** Where the decoder comes from. */
    public interface Source {
        /** The name that is printed. */
        String name();

        DecoderConfig config();

        /** Opens the model; the result is closed by whoever opened it. */
        Opened open() throws IOException;
    }

    /** A decoder and how it is freed. */
    public record Opened(Decoder decoder, AutoCloseable memory) {
    }

    private BenchRun() {
    }

    /** A shape with random weights, quantized on {@code backend}. */
    public static Source random(Backend backend, String shape, BenchSettings config) {
        DecoderConfig decoder = Shapes.named(shape);
        return new Source() {
            @Override
            public String name() {
                return shape + ", random weights";
            }

            @Override
            public DecoderConfig config() {
                return decoder;
            }

            @Override
            public Opened open() {
                RandomWeights.Model m = RandomWeights.model(backend, decoder, config.type(), BenchSettings.QUANTIZE,
                        BenchSettings.SEED);
                return new Opened(m.decoder(), m);
            }
        };
    }

    /**
     * Measures.
     *
     * @param source the model of {@link Target#TRAIN} and {@link Target#DECODE}; null without them
     * @param print takes the lines of the report
     */
    public static Results run(Backend backend, Set<Target> targets, Source source, BenchSettings config,
            Consumer<String> print) throws IOException {
        int longest = config.longest(targets);
        if (source != null && longest > source.config().maxPositions()) {
            throw new IllegalArgumentException("sequences of " + longest + " tokens: " + source.name()
                    + " takes at most " + source.config().maxPositions()
                    + "; lower --max-seq-length, --prefill, --prompt-length or --max-new-tokens");
        }
        List<Figure> figures = new ArrayList<>();
        if (source != null && !backend.name().equals(Backend.SCALAR)) {
            print.accept(LossCheck.run(backend, config.type()));
        }
        print.accept(Table.header());
        Ceilings ceilings = Ceilings.measure(backend, config);
        for (Figure f : ceilings.figures()) {
            figures.add(f);
            print.accept(Table.line(f));
        }
        Consumer<Figure> report = f -> {
            figures.add(f);
            print.accept(Table.line(f));
        };
        if (targets.contains(Target.KERNELS)) {
            print.accept(KernelBench.title(config));
            // Once unseen: the compiler needs more calls than one short figure makes.
            new KernelBench(backend, config.withSeconds(config.seconds() / 2), ceilings, _ -> {
            }).run();
            new KernelBench(backend, config, ceilings, report).run();
            print.accept(LayerBench.title(config));
            new LayerBench(backend, config, ceilings, report).run();
        }
        if (source != null) {
            backend.ledger().resetPeak();
            model(backend, targets, source, config, ceilings, report, print);
        }
        Map<String, String> machine = machine(backend);
        machine.put("compute dtype", config.typeName());
        if (targets.contains(Target.KERNELS)) {
            machine.put("matrix", config.out() + "x" + config.in());
        }
        if (source != null) {
            machine.put("model", source.name());
        }
        return new Results("qlora4j", machine, figures);
    }

    private static void model(Backend backend, Set<Target> targets, Source source, BenchSettings config,
            Ceilings ceilings, Consumer<Figure> report, Consumer<String> print) throws IOException {
        long start = System.nanoTime();
        Opened opened = source.open();
        double most = backend.ledger().peak() / 1e9;
        LoraConfig lora = new LoraConfig(config.rank(), config.rank(), config.dropout(),
                List.of(LoraConfig.ALL_LINEAR), null, BenchSettings.SEED);
        try (AutoCloseable _ = opened.memory(); Adapter adapter = Adapter.create(opened.decoder(), 0, lora)) {
            print.accept(
                    String.format(Locale.ROOT, "model: %s, %.2f G parameters in linear layers, %s, there in %.1f s,"
                            + " at most %.2f GB held meanwhile",
                            source.name(), Work.linearParameters(source.config()) / 1e9, config.typeName(),
                            Timing.since(start), most));
            if (targets.contains(Target.TRAIN)) {
                TrainBench.run(opened.decoder(), adapter, config, ceilings, report);
            }
            if (targets.contains(Target.DECODE)) {
                new DecodeBench(opened.decoder(), config, ceilings, report).run(adapter);
            }
        } catch (IOException | RuntimeException e) {
            throw e;
        } catch (Exception e) {
            throw new IllegalStateException(e);
        }
    }

    /** What the figures were measured on. */
    static Map<String, String> machine(Backend backend) {
        Map<String, String> m = new LinkedHashMap<>();
        m.put("backend", backend.describe());
        m.put("os", System.getProperty("os.name") + " " + System.getProperty("os.version") + " "
                + System.getProperty("os.arch"));
        m.put("java", System.getProperty("java.vendor.version", System.getProperty("java.vendor")) + " "
                + System.getProperty("java.version"));
        m.put("processors", String.valueOf(ManagementFactory.getOperatingSystemMXBean().getAvailableProcessors()));
        return m;
    }

    /** Threads that a backend computes with; 0 on a GPU. */
    static int threads(Backend backend) {
        return backend instanceof CpuBackend cpu ? cpu.team().size() : 0;
    }
}
