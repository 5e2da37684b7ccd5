package qlora4j.model;

import qlora4j.lora.LinearWeight;
import qlora4j.tensor.Tensor;

/** Where a {@link Decoder} gets its tensors from, by their names in a Hugging Face checkpoint. */
public interface DecoderWeights {
    /** A norm, embedding, head or bias on the device, in the type the decoder computes with; a bfloat16 table may stay so. */
    Tensor dense(String name, long... shape);

    /** The weight of a linear layer {@code [out, in]}. */
    LinearWeight linear(String name, int out, int in);

    /** Where the gradient of a tensor is accumulated, or null when it is frozen. */
    default Tensor grad(String name) {
        return null;
    }

    /** An embedding or a head that was given by {@link #dense}, with the room for more rows behind it; null without any. */
    default Tensor whole(String name) {
        return null;
    }

    /** Frees an embedding or a head that was given by {@link #dense} and is held elsewhere now, where that is possible. */
    default void release(String name) {
    }
}
