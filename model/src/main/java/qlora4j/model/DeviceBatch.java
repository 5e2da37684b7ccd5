package qlora4j.model;

import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** A batch's integers on the device, taken from the stream's arena. */
final class DeviceBatch {
    final Tensor tokens;
    final Tensor positions;
    final Tensor samples;
    final Tensor cu;
    final Tensor kvStart;
    final Tensor kvLen;
    final int maxLength;
    /** The tokens on the host; null where they are chosen on the device. */
    final int[] hostTokens;
    private final boolean taken;

    /** Sequences whose keys are their own rows: training, scoring, logits. */
    DeviceBatch(Stream s, TokenBatch b) {
        tokens = upload(s, b.tokens());
        positions = upload(s, b.positions());
        samples = upload(s, b.samples());
        cu = upload(s, b.cuLengths());
        kvStart = cu.rows(0, b.sequences());
        int[] lengths = new int[b.sequences()];
        for (int i = 0; i < lengths.length; i++) {
            lengths[i] = b.cuLengths()[i + 1] - b.cuLengths()[i];
        }
        kvLen = upload(s, lengths);
        maxLength = b.maxLength();
        hostTokens = b.tokens();
        taken = true;
    }

    /** New rows of sequences whose earlier keys are in a cache; the cache knows starts and lengths. */
    DeviceBatch(Stream s, TokenBatch b, KvCache cache) {
        tokens = upload(s, b.tokens());
        positions = upload(s, b.positions());
        samples = null;
        cu = upload(s, b.cuLengths());
        kvStart = cache.starts();
        kvLen = cache.lengths();
        maxLength = cache.capacity();
        hostTokens = b.tokens();
        taken = true;
    }

    /** One new row of each sequence of a cache, in tensors that live longer than a step. */
    DeviceBatch(Tensor tokens, Tensor positions, Tensor cu, KvCache cache) {
        this.tokens = tokens;
        this.positions = positions;
        this.cu = cu;
        samples = null;
        kvStart = cache.starts();
        kvLen = cache.lengths();
        maxLength = cache.capacity();
        hostTokens = null;
        taken = false;
    }

    private boolean ownsKeys() {
        return samples != null;
    }

    void release(Stream s) {
        if (!taken) {
            return;
        }
        s.release(tokens, positions, samples, cu);
        if (ownsKeys()) {
            s.release(kvLen);
        }
    }

    static Tensor upload(Stream s, int[] values) {
        Tensor t = s.take(DType.I32, values.length);
        s.upload(values, t);
        return t;
    }
}
