package qlora4j.optim;

/**
 * The layout of the small float64 tensor, on the device, through which a step's numbers reach the kernels. The first
 * {@link #WRITTEN} are written by the host once a step ({@link AdamW#prepare}); the others are results of kernels of
 * the step itself. So nothing in a step depends on a host value, and a step can be captured once and replayed.
 */
public final class OptimScalars {
    /** The learning rate. */
    public static final int LEARNING_RATE = 0;
    /** {@code c1 = 1 - beta1^t}. */
    public static final int CORRECTION1 = 1;
    /** {@code c2 = sqrt(1 - beta2^t)}. */
    public static final int CORRECTION2 = 2;
    /** What the gradients are multiplied by before anything else, such as one over the step's tokens. */
    public static final int GRAD_SCALE = 3;
    /** How many the host writes. */
    public static final int WRITTEN = 4;
    /** The sum of the squares of the unscaled gradients. */
    public static final int SUM_OF_SQUARES = 4;
    /** The norm of the scaled gradients before clipping. */
    public static final int GRAD_NORM = 5;
    /** {@code GRAD_SCALE} times the clipping factor: what AdamW multiplies a gradient by. */
    public static final int CLIP_SCALE = 6;
    /** The tensor's size. */
    public static final int SIZE = 8;

    private OptimScalars() {
    }
}
