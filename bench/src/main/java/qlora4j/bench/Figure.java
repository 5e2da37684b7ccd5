package qlora4j.bench;

import java.util.LinkedHashMap;
import java.util.Map;

/**
 * One line of a report: a rate, and how much of its ceiling it reaches.
 *
 * @param id what was done, the same in every program that measures it: {@code matmul.m64}
 * @param what the same for people, with sizes
 * @param threads that worked; 0 on a GPU
 * @param timing of one piece of the work; null where the value is no rate (memory)
 * @param value the figure
 * @param unit of the value: {@code tok/s}, {@code GB/s}, {@code GFLOP/s}, {@code Gelem/s}, {@code GB}
 * @param ceiling the best the machine could do in that unit; 0 where unknown
 * @param bound what the ceiling is: {@code copy}, {@code read}, {@code flops}, or empty
 * @param notes further numbers by name
 */
public record Figure(String id, String what, int threads, Timing timing, double value, String unit, double ceiling,
        String bound, Map<String, Double> notes) {
    public Figure {
        notes = new LinkedHashMap<>(notes);
        if (!(value >= 0) || Double.isInfinite(value)) {
            throw new IllegalArgumentException(id + ": the figure is " + value + " " + unit);
        }
    }

    /** The share of the ceiling that was reached, or 0 where there is none. */
    public double fraction() {
        return ceiling > 0 ? value / ceiling : 0;
    }

    /**
     * A rate that a ceiling bounds.
     *
     * @param amount what one piece of work does, in the unit
     * @param cost what it costs in the ceiling's unit (bytes or operations)
     * @param perSecond the ceiling of that cost; 0 where unknown
     */
    static Figure rate(String id, String what, int threads, Timing t, double amount, String unit, double cost,
            Ceilings.Bound bound, double perSecond) {
        double ceiling = cost > 0 ? amount * perSecond / cost : 0;
        return new Figure(id, what, threads, t, amount / t.median(), unit, ceiling, bound.word(), Map.of());
    }

    /** The same with one more number. */
    Figure with(String name, double number) {
        Map<String, Double> more = new LinkedHashMap<>(notes);
        more.put(name, number);
        return new Figure(id, what, threads, timing, value, unit, ceiling, bound, more);
    }
}
