package qlora4j.template;

/**
 * What one rendering may use. Reaching a bound ends it with a {@link TemplateException} of kind LIMIT.
 *
 * @param maxOutput the longest text, in {@code char}s, that the template may write or hold in one value
 * @param maxSteps  how many steps it may take: a loop iteration, an element of a list that is built, a call, and
 *                  every {@value Session#CHARS_PER_STEP} characters of built text count as one step each
 * @param maxDepth  how deeply expressions, calls, recursive loops and printed values may be nested
 */
public record Limits(int maxOutput, long maxSteps, int maxDepth) {

    /** 16 Mi characters, ten million steps, 700 levels (100 to 230 nested macro calls; fits a stack of 512 KB). */
    public static final Limits DEFAULT = new Limits(16 << 20, 10_000_000L, 700);

    /** Checks that every bound is positive. */
    public Limits {
        if (maxOutput <= 0 || maxSteps <= 0 || maxDepth <= 0) {
            throw new IllegalArgumentException(
                    "limits must be positive: " + maxOutput + ", " + maxSteps + ", " + maxDepth);
        }
    }
}
