package qlora4j.cuda;

import static qlora4j.cuda.CudaDriver.check;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.TreeMap;
import jcuda.driver.CUevent;
import jcuda.driver.CUstream;
import jcuda.driver.JCudaDriver;

/**
 * Where a GPU's time goes, kernel by kernel: with {@code -Dqlora4j.cuda.profile=true} events are recorded around each
 * launch, and {@link #report} is printed to standard error when the backend is closed. It costs some microseconds a
 * launch; work in recorded steps is not seen.
 */
final class CudaProfile {
    private static final int KEPT = 8192;

    private static final class Total {
        long calls;
        double milliseconds;
    }

    private final CUstream queue;
    private final List<CUevent> events = new ArrayList<>();
    private final List<String> names = new ArrayList<>();
    private final Map<String, Total> totals = new TreeMap<>();

    CudaProfile(CUstream queue) {
        this.queue = queue;
    }

    /** Before a launch of what is called {@code name}. */
    synchronized void begin(String name) {
        if (names.size() == KEPT) {
            collect();
        }
        mark(2 * names.size());
        names.add(name);
    }

    /** After it. */
    synchronized void end() {
        mark(2 * names.size() - 1);
    }

    private void mark(int i) {
        if (i == events.size()) {
            CUevent e = new CUevent();
            check(JCudaDriver.cuEventCreate(e, 0), "cuEventCreate");
            events.add(e);
        }
        check(JCudaDriver.cuEventRecord(events.get(i), queue), "cuEventRecord");
    }

    private void collect() {
        check(JCudaDriver.cuStreamSynchronize(queue), "cuStreamSynchronize");
        float[] ms = new float[1];
        for (int i = 0; i < names.size(); i++) {
            check(JCudaDriver.cuEventElapsedTime(ms, events.get(2 * i), events.get(2 * i + 1)), "cuEventElapsedTime");
            Total t = totals.computeIfAbsent(names.get(i), n -> new Total());
            t.calls++;
            t.milliseconds += ms[0];
        }
        names.clear();
    }

    /** A line for each kernel, the longest first. */
    synchronized String report() {
        collect();
        double all = totals.values().stream().mapToDouble(t -> t.milliseconds).sum();
        StringBuilder out = new StringBuilder(String.format(Locale.ROOT, "%10s %6s %8s %10s  kernel%n", "ms", "%",
                "calls", "us a call"));
        totals.entrySet().stream()
                .sorted((a, b) -> Double.compare(b.getValue().milliseconds, a.getValue().milliseconds))
                .forEach(e -> out.append(String.format(Locale.ROOT, "%10.2f %6.2f %8d %10.2f  %s%n",
                        e.getValue().milliseconds, 100 * e.getValue().milliseconds / all, e.getValue().calls,
                        1e3 * e.getValue().milliseconds / e.getValue().calls, e.getKey())));
        return out.append(String.format(Locale.ROOT, "%10.2f  in all%n", all)).toString();
    }

    synchronized void close() {
        events.forEach(e -> check(JCudaDriver.cuEventDestroy(e), "cuEventDestroy"));
    }
}
