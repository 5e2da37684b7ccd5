package qlora4j.verify;

import java.io.IOException;
import java.util.Arrays;
import qlora4j.model.TokenBatch;
import qlora4j.safetensors.Safetensors;
import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/**
 * A padded batch of a record, {@code input_ids}, {@code labels} and {@code attention_mask} [B, T], as rows without
 * padding.
 */
final class RecordedBatch {
    private final int[] ids;
    private final int[] labels;
    private final int[] mask;
    private final int width;
    private final int height;

    private RecordedBatch(int[] ids, int[] labels, int[] mask, int width) {
        this.ids = ids;
        this.labels = labels;
        this.mask = mask;
        this.width = width;
        this.height = ids.length / width;
    }

    static RecordedBatch read(Safetensors recorded) throws IOException {
        Tensor ids = recorded.tensor("input_ids");
        Tensor labels = recorded.tensor("labels");
        Tensor mask = recorded.tensor("attention_mask");
        if (ids.rank() != 2 || ids.size() == 0 || labels.size() != ids.size() || mask.size() != ids.size()) {
            throw new IOException(recorded.file() + ": input_ids " + ids + ", labels " + labels
                    + " and attention_mask " + mask + " must be of one shape [batch, tokens]");
        }
        RecordedBatch batch = new RecordedBatch(ids.toInts(), labels.toInts(), mask.toInts(), ids.cols());
        for (int i = 0; i < batch.height; i++) {
            int real = batch.length(i);
            if (real == 0 || batch.last(i) - batch.first(i) + 1 != real) {
                throw new IOException(recorded.file() + ": row " + i
                        + " of attention_mask is not one run of ones; padding goes before or after the tokens");
            }
        }
        return batch;
    }

    int height() {
        return height;
    }

    private int length(int row) {
        return Arrays.stream(mask, row * width, (row + 1) * width).sum();
    }

    private int first(int row) {
        int t = 0;
        while (mask[row * width + t] == 0) {
            t++;
        }
        return t;
    }

    private int last(int row) {
        int t = width - 1;
        while (mask[row * width + t] == 0) {
            t--;
        }
        return t;
    }

    /** The first token that is no padding, counted over the padded rows. */
    int firstReal() {
        return first(0);
    }

    /** The tokens of one row, without padding. */
    int[] tokens(int row) {
        return Arrays.copyOfRange(ids, row * width + first(row), row * width + last(row) + 1);
    }

    /** The first {@code n} tokens of a row. */
    int[] prompt(int row, int n) {
        return Arrays.copyOf(tokens(row), n);
    }

    /** Rows {@code from} to {@code to}, each token labelled with the one that follows it. */
    TokenBatch batch(int from, int to) {
        int[][] sequences = new int[to - from][];
        for (int i = from; i < to; i++) {
            sequences[i - from] = tokens(i);
        }
        TokenBatch batch = TokenBatch.of(sequences);
        int[] shifted = new int[batch.rows()];
        Arrays.fill(shifted, TokenBatch.IGNORED);
        for (int i = from; i < to; i++) {
            int at = batch.cuLengths()[i - from] - first(i);
            for (int t = first(i); t < last(i); t++) {
                shifted[at + t] = labels[i * width + t + 1];
            }
        }
        return batch.withLabels(shifted);
    }

    /** The whole batch. */
    TokenBatch batch() {
        return batch(0, height);
    }

    /** Labels of the rows {@code from} to {@code to}. */
    int labels(int from, int to) {
        return (int) Arrays.stream(batch(from, to).labels()).filter(l -> l != TokenBatch.IGNORED).count();
    }

    /** The rows of a recorded tensor [B, T, n] or [B, T] that are no padding, in the order of {@link #batch}. */
    Tensor real(Tensor padded) {
        if (padded.rank() < 2 || padded.dim(0) != height || padded.dim(1) != width) {
            throw new IllegalArgumentException("recorded as " + padded + ", expected [" + height + ", " + width
                    + ", ...]");
        }
        long columns = padded.size() / ((long) height * width);
        Tensor rows = Tensor.zeros(DType.F32, Arrays.stream(mask).sum(), columns);
        long to = 0;
        for (int i = 0; i < mask.length; i++) {
            if (mask[i] != 0) {
                rows.rows(to, to + 1).copyFrom(padded.slice(i * columns, columns));
                to++;
            }
        }
        return rows;
    }
}
