package qlora4j.tensor;

import java.util.EnumMap;
import java.util.Map;

/** Bytes held on one device by use, and the peak of their sum. Thread-safe. */
public final class MemoryLedger {
    private final Map<MemoryUse, Long> held = new EnumMap<>(MemoryUse.class);
    private long total;
    private long peak;

    public synchronized void add(MemoryUse use, long bytes) {
        held.merge(use, bytes, Long::sum);
        total += bytes;
        peak = Math.max(peak, total);
    }

    /** Bytes held now for {@code use}. */
    public synchronized long held(MemoryUse use) {
        return held.getOrDefault(use, 0L);
    }

    /** Bytes held now. */
    public synchronized long total() {
        return total;
    }

    /** The most bytes held at once since the backend was opened, or since {@link #resetPeak}. */
    public synchronized long peak() {
        return peak;
    }

    /** Lets the peak begin anew at what is held now. */
    public synchronized void resetPeak() {
        peak = total;
    }
}
