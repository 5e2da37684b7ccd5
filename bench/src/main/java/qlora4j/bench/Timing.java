package qlora4j.bench;

import java.util.ArrayList;
import java.util.List;
import org.apache.commons.statistics.descriptive.Median;

/**
 * Seconds of one piece of work, repeated.
 *
 * @param median of the samples
 * @param best the shortest
 * @param samples how many there were; a sample of short work is the mean of several calls
 */
public record Timing(double median, double best, int samples) {
    /** A sample lasts this long at least, so that clock and synchronization do not count. */
    private static final double SAMPLE_SECONDS = 0.004;
    private static final int LEAST_SAMPLES = 3;
    private static final int MOST_SAMPLES = 1000;
    /** The share of the time that goes into warming up. */
    private static final double WARM = 0.4;

    /**
     * Times work that may be only enqueued.
     *
     * @param work one call; it may enqueue
     * @param wait waits for everything enqueued
     * @param seconds about how long all of it may take; three samples are taken in any case
     */
    public static Timing of(Runnable work, Runnable wait, double seconds) {
        long begin = System.nanoTime();
        double one = Double.MAX_VALUE;
        do {
            one = Math.min(one, sample(work, wait, 1));
        } while (since(begin) < WARM * seconds);
        int calls = (int) Math.min(10_000, Math.max(1, Math.ceil(SAMPLE_SECONDS / one)));
        List<Double> seen = new ArrayList<>();
        while (seen.size() < LEAST_SAMPLES || since(begin) < seconds && seen.size() < MOST_SAMPLES) {
            seen.add(sample(work, wait, calls));
        }
        return of(seen);
    }

    /** Statistics of samples that were taken elsewhere. */
    static Timing of(List<Double> seconds) {
        double[] all = seconds.stream().mapToDouble(Double::doubleValue).toArray();
        double best = seconds.stream().mapToDouble(Double::doubleValue).min().orElseThrow();
        return new Timing(Median.withDefaults().evaluate(all), best, all.length);
    }

    /** Of one of {@code n} equal parts of the work. */
    Timing dividedBy(int n) {
        return new Timing(median / n, best / n, samples);
    }

    private static double sample(Runnable work, Runnable wait, int calls) {
        wait.run();
        long start = System.nanoTime();
        for (int i = 0; i < calls; i++) {
            work.run();
        }
        wait.run();
        return since(start) / calls;
    }

    static double since(long start) {
        return (System.nanoTime() - start) / 1e9;
    }
}
