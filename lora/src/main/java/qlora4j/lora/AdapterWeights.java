package qlora4j.lora;

import qlora4j.tensor.Tensor;

/**
 * One module's adapter as it lies in a file.
 *
 * @param a [r, in]
 * @param b [out, r]
 * @param magnitude [out] of DoRA; null without
 */
public record AdapterWeights(Tensor a, Tensor b, Tensor magnitude) {
    /** Plain LoRA. */
    public AdapterWeights(Tensor a, Tensor b) {
        this(a, b, null);
    }

    /**
     * What changed since {@code first}, as an adapter of twice the rank: {@code [B, -B₀]·[A; A₀] = B·A - B₀·A₀}, as PEFT
     * converts an adapter whose base lacks {@code B₀·A₀} to one for the whole base.
     */
    public AdapterWeights since(AdapterWeights first) {
        int r = a.rows();
        int in = a.cols();
        int out = b.rows();
        Tensor bothA = Tensor.zeros(a.dtype(), 2L * r, in);
        bothA.rows(0, r).copyFrom(a);
        bothA.rows(r, 2 * r).copyFrom(first.a);
        Tensor bothB = Tensor.zeros(b.dtype(), out, 2L * r);
        for (int i = 0; i < out; i++) {
            for (int k = 0; k < r; k++) {
                bothB.set(2L * r * i + k, b.get((long) r * i + k));
                bothB.set(2L * r * i + r + k, -first.b.get((long) r * i + k));
            }
        }
        return new AdapterWeights(bothA, bothB, magnitude);
    }
}
