package qlora4j.bench;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import qlora4j.tensor.Backend;

/**
 * What a device can do at most, measured in the run whose figures are held against it.
 *
 * @param copy bytes a second, read and written together
 * @param read bytes a second
 * @param flops floating-point operations a second
 * @param figures how they were measured, one line each
 */
public record Ceilings(double copy, double read, double flops, List<Figure> figures) {
    public Ceilings {
        figures = List.copyOf(figures);
    }

    /** What limits a piece of work. */
    public enum Bound {
        COPY, READ, FLOPS, NONE;

        String word() {
            return this == NONE ? "" : name().toLowerCase(Locale.ROOT);
        }
    }

    /** The ceiling of one kind; 0 where it is unknown. */
    double of(Bound bound) {
        return switch (bound) {
            case COPY -> copy;
            case READ -> read;
            case FLOPS -> flops;
            case NONE -> 0;
        };
    }

    /**
     * Measures them.
     *
     * @param config what is timed: the type of a GPU's products
     */
    public static Ceilings measure(Backend backend, BenchSettings config) {
        return backend.device().isHost()
                ? HostCeilings.measure(backend, config.seconds(), config.footprint())
                : DeviceCeilings.measure(backend, config.type(), config.seconds());
    }

    /** Collects figures as they are measured. */
    static final class Builder {
        private final List<Figure> figures = new ArrayList<>();

        /** Adds a ceiling, which bounds itself, and returns it per second. */
        double add(String id, String what, int threads, Timing t, double amount, String unit, double scale) {
            figures.add(new Figure(id, what, threads, t, amount / scale / t.best(), unit, 0, "", java.util.Map.of()));
            return amount / t.best();
        }

        List<Figure> figures() {
            return figures;
        }
    }
}
