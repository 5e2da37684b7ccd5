package qlora4j.model;

import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Where the inputs of checkpointed layers are between a layer's forward and its backward, when they do not stay on the
 * device. Copies run beside the work of the stream; they change no number.
 */
public interface LayerInputStore extends AutoCloseable {
    /** Begins to copy h away, once all work enqueued so far is done. h must stay as it is until {@link #settle}. */
    void put(Stream s, int layer, Tensor h);

    /** Begins to copy what was put for a layer into h, once all work enqueued so far is done. */
    void get(Stream s, int layer, Tensor h);

    /** Work enqueued from now on runs after all copies begun so far. */
    void settle(Stream s);

    @Override
    void close();
}
