package qlora4j.bench;

import java.lang.management.ManagementFactory;
import java.util.List;
import org.apache.commons.statistics.descriptive.Median;

/** What a piece of work leaves for the garbage collector. */
final class Heap {
    private static final long UNKNOWN = -1;

    private Heap() {
    }

    /** Bytes that all threads have allocated on the Java heap so far; -1 where the JVM does not count them. */
    static long allocated() {
        return ManagementFactory.getThreadMXBean() instanceof com.sun.management.ThreadMXBean threads
                ? threads.getTotalThreadAllocatedBytes()
                : UNKNOWN;
    }

    /** Bytes allocated between each of these readings of {@link #allocated} and the next: the median, as a figure. */
    static Figure figure(String id, String what, List<Long> readings) {
        double[] each = new double[readings.size() - 1];
        for (int i = 0; i < each.length; i++) {
            each[i] = readings.get(i + 1) - readings.get(i);
        }
        return new Figure(id, "Java heap that " + what + " allocates", 0, null,
                Median.withDefaults().evaluate(each) / 1e6, "MB", 0, "", java.util.Map.of());
    }

    /** Whether there is anything to report. */
    static boolean isKnown(List<Long> readings) {
        return readings.size() > 1 && readings.getFirst() != UNKNOWN;
    }
}
