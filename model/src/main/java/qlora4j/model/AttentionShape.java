package qlora4j.model;

/**
 * The fixed part of an attention call.
 *
 * @param heads query heads
 * @param kvHeads key and value heads; {@code heads} is a multiple of it, and query head h reads kv head
 *         {@code h / (heads / kvHeads)}
 * @param headDim elements of one head
 * @param window how many keys a query sees, itself included; 0: all before it
 * @param maxLength the longest sequence (keys) of the call, for workspace sizes
 */
public record AttentionShape(int heads, int kvHeads, int headDim, int window, int maxLength) {
    public AttentionShape {
        if (kvHeads < 1 || heads % kvHeads != 0 || headDim < 1 || window < 0) {
            throw new IllegalArgumentException(heads + " heads over " + kvHeads + " kv heads of " + headDim
                    + ", window " + window);
        }
    }

    /** The factor on q·k: 1/√headDim. */
    public double scale() {
        return 1 / Math.sqrt(headDim);
    }
}
