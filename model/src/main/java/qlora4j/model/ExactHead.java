package qlora4j.model;

import qlora4j.blockwise.ExactInt8;
import qlora4j.blockwise.ExactInt8Kernels;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * A frozen float32 head that is 8 bits without loss, as that of a model that was once a GGUF file: held so as well, for
 * a quarter of the bytes to read for a token. The numbers are the same; see {@link ExactInt8}.
 */
final class ExactHead {
    /** With more rows than this the product reads the head as it is. */
    private static final int FEW_ROWS = 4;

    private ExactInt8 held;
    private Tensor of;
    private boolean looked;

    /** Looks, once, whether a head is such a one. */
    synchronized void look(Backend backend, Tensor head) {
        if (!looked) {
            held = ExactInt8.of(backend, head);
            of = head;
            looked = true;
        }
    }

    /** Bytes that a product of one row with W reads. */
    long bytes(Tensor w) {
        return held(w) ? held.bytes() : w.bytes();
    }

    /** An adapter's head, or one that has moved, is another W than the one that is held. */
    private boolean held(Tensor w) {
        return held != null && w == of;
    }

    /** {@code logits = n·Wᵀ}. */
    void logits(Stream s, Tensor n, Tensor w, Tensor logits) {
        if (held(w) && n.rows() <= FEW_ROWS) {
            s.kernels(ExactInt8Kernels.class).matmul(s, n, held, logits);
        } else {
            Matmul.nt(s, n, w, 1, logits, false);
        }
    }
}
