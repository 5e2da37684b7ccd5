package qlora4j.bench.jmh;

import java.io.IOException;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.Main;
import org.openjdk.jmh.infra.BenchmarkParams;
import org.openjdk.jmh.results.Result;
import org.openjdk.jmh.results.RunResult;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.RunnerException;
import org.openjdk.jmh.runner.options.CommandLineOptionException;
import org.openjdk.jmh.runner.options.CommandLineOptions;
import qlora4j.bench.BenchSettings;
import qlora4j.bench.Ceilings;
import qlora4j.bench.Figure;
import qlora4j.bench.Table;
import qlora4j.bench.Timing;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Backends;
import qlora4j.tensor.DType;

/**
 * JMH's own command line, and after its report each result once more as a rate beside its ceiling, which is measured in
 * the same run with as many threads.
 */
public final class JmhMain {
    private static final double CEILING_SECONDS = 0.4;
    private static final String ALLOCATED = "gc.alloc.rate.norm";

    private final Map<String, Ceilings> ceilings = new HashMap<>();

    private JmhMain() {
    }

    public static void main(String[] args) throws IOException {
        try {
            CommandLineOptions options = new CommandLineOptions(args);
            if (options.shouldHelp() || options.shouldList() || options.shouldListWithParams()
                    || options.shouldListProfilers() || options.shouldListResultFormats()) {
                Main.main(args);
                return;
            }
            table(new Runner(options).run()).forEach(System.out::println);
        } catch (CommandLineOptionException | RunnerException e) {
            System.err.println("bench/jmh: " + e.getMessage());
            System.exit(1);
        }
    }

    /** A line for each result, below a header. */
    static List<String> table(Collection<RunResult> results) {
        JmhMain measured = new JmhMain();
        List<String> lines = new ArrayList<>(List.of("", Table.header()));
        for (RunResult r : results) {
            lines.add(measured.line(r, results));
        }
        lines.add("(ceilings: multiply-adds in registers, reading or copying memory, measured after the benchmarks)");
        return lines;
    }

    private String line(RunResult result, Collection<RunResult> all) {
        BenchmarkParams params = result.getParams();
        Result<?> primary = result.getPrimaryResult();
        double seconds = primary.getScore() / params.getTimeUnit().convert(1, TimeUnit.SECONDS);
        Timing timing = new Timing(seconds, primary.getStatistics().getMin() / primary.getScore() * seconds,
                (int) primary.getSampleCount());
        String name = name(params);
        Cost cost = Cost.of(name, params::getParam);
        int threads = threads(params);
        String what = name.replace("Benchmark", "") + " " + parameters(params, all);
        Figure figure = cost == null
                ? new Figure(name, what, threads, timing, 1 / seconds, "calls/s", 0, "", Map.of())
                : new Figure(name, what, threads, timing, cost.amount() / seconds, cost.unit(),
                        cost.amount() / cost.leastSeconds(ceilings(threads, cost.footprint())), "", Map.of());
        Result<?> heap = result.getSecondaryResults().get(ALLOCATED);
        return Table.line(figure)
                + (heap == null ? "" : String.format(Locale.ROOT, "  %,.0f bytes of heap a call", heap.getScore()));
    }

    /** Class and method. */
    static String name(BenchmarkParams params) {
        String full = params.getBenchmark();
        return full.substring(full.lastIndexOf('.', full.lastIndexOf('.') - 1) + 1);
    }

    private static int threads(BenchmarkParams params) {
        String given = params.getParamsKeys().contains("threads") ? params.getParam("threads") : "1";
        int n = Integer.parseInt(given);
        return n == 0 ? Runtime.getRuntime().availableProcessors() : n;
    }

    /** The parameters in which results of this benchmark differ, and the threads. */
    private static String parameters(BenchmarkParams params, Collection<RunResult> all) {
        List<String> told = new ArrayList<>();
        for (String key : params.getParamsKeys()) {
            long values = all.stream().map(RunResult::getParams)
                    .filter(p -> p.getBenchmark().equals(params.getBenchmark())).map(p -> p.getParam(key)).distinct()
                    .count();
            if (values > 1 && !key.equals("threads")) {
                told.add(key + "=" + params.getParam(key));
            }
        }
        told.add(threads(params) + (threads(params) == 1 ? " thread" : " threads"));
        return String.join(", ", told);
    }

    private Ceilings ceilings(int threads, long footprint) {
        return ceilings.computeIfAbsent(threads + "/" + footprint, _ -> {
            BenchSettings settings = new BenchSettings(CEILING_SECONDS, DType.F32, 1, 1, 1, 0, 1, 2, false, 1, 1, 2,
                    footprint);
            try (Backend backend = Backends.open(Backend.CPU, null, threads)) {
                return Ceilings.measure(backend, settings);
            }
        });
    }
}
