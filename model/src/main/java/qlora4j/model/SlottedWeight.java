package qlora4j.model;

import java.util.Arrays;
import qlora4j.lora.Linear.Adapters;
import qlora4j.tensor.Tensor;

/**
 * A weight outside the linear layers (an embedding, a norm, the head), in whose place an adapter's slot may have a copy
 * of its own: PEFT's {@code modules_to_save}. A copy of the embedding or the head may have other rows: another
 * vocabulary.
 */
final class SlottedWeight {
    private final String name;
    private Tensor base;
    private final Tensor baseGrad;
    private Tensor[] own = new Tensor[0];
    private Tensor[] ownGrad = new Tensor[0];

    /**
     * A weight that no adapter replaces yet.
     *
     * @param name of the tensor in the checkpoint
     * @param grad where its gradient is accumulated; null where it is frozen
     */
    SlottedWeight(String name, Tensor base, Tensor grad) {
        this.name = name;
        this.base = base;
        this.baseGrad = grad;
    }

    String name() {
        return name;
    }

    /** The model's own. */
    Tensor base() {
        return base;
    }

    /** The model's own lies elsewhere now. */
    void rebase(Tensor moved) {
        base = moved;
    }

    /** Puts a copy in a slot; null takes it away. */
    void set(int slot, Tensor weight, Tensor grad) {
        if (weight != null && (weight.rank() != base.rank() || weight.cols() != base.cols())) {
            throw new IllegalArgumentException(name + " is " + base + ", the adapter's is " + weight
                    + ": was it trained on another model?");
        }
        if (slot >= own.length) {
            own = Arrays.copyOf(own, slot + 1);
            ownGrad = Arrays.copyOf(ownGrad, slot + 1);
        }
        own[slot] = weight;
        ownGrad[slot] = grad;
    }

    /** Whether any slot has a copy. */
    boolean hasOwn() {
        return Arrays.stream(own).anyMatch(t -> t != null);
    }

    private boolean replaced(Adapters adapters) {
        if (adapters.ofRow() != null && hasOwn()) {
            throw new IllegalArgumentException("rows of several adapters in one batch: one of them has a " + name
                    + " of its own (modules_to_save, trainable_token_indices), and a batch has one " + name
                    + "; run that adapter in a batch by itself");
        }
        int slot = adapters.slot();
        return slot >= 0 && slot < own.length && own[slot] != null;
    }

    /** The most rows of any of them. */
    int most() {
        int most = base.rows();
        for (Tensor t : own) {
            most = t == null ? most : Math.max(most, t.rows());
        }
        return most;
    }

    /** The weight of a call. */
    Tensor weight(Adapters adapters) {
        return replaced(adapters) ? own[adapters.slot()] : base;
    }

    /** Where its gradient goes in a call; null where it is frozen. */
    Tensor grad(Adapters adapters) {
        return replaced(adapters) ? ownGrad[adapters.slot()] : baseGrad;
    }
}
