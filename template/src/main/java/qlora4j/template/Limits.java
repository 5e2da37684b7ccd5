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

    /**
     * 16 Mi characters, ten million steps, 400 levels: 57 to 130 nested macro calls. A level takes up to 1.1 KB of the
     * thread's stack (frames of the JVM's first compiler are the largest), so these fit a stack of 640 KB.
     */
    public static final Limits DEFAULT = new Limits(16 << 20, 10_000_000L, 400);

    /** Checks that every bound is positive. */
    public Limits {
        if (maxOutput <= 0 || maxSteps <= 0 || maxDepth <= 0) {
            throw new IllegalArgumentException(
                    "limits must be positive: " + maxOutput + ", " + maxSteps + ", " + maxDepth);
        }
    }
}
