package qlora4j.blockwise;

import qlora4j.tensor.DType;
import qlora4j.tensor.Team;
import qlora4j.tensor.VectorGemm;

/** Quantized matrices delivered as float panels to tiled products. One for a product engine. */
public final class VectorQuantizedPanels {
    private final VectorCodec[] codecs = VectorCodec.ofTypes();
    private final VectorPanels.Scratch[] scratch;

    public VectorQuantizedPanels(Team team) {
        this.scratch = VectorPanels.Scratch.of(team.size());
    }

    /** Both kinds of panels, and any elements. */
    VectorPanels of(QuantizedTensor w, DType compute) {
        return new VectorPanels(w, codecs[w.config().type().ordinal()], compute, scratch);
    }

    /**
     * The transpose of {@code w [out, in]}, for {@code x·Wᵀ}.
     *
     * @param compute the type that W is rounded to
     */
    public VectorGemm.PanelSource columns(QuantizedTensor w, DType compute) {
        return of(w, compute).columns();
    }

    /** {@code w} itself, for {@code dy·W}. */
    public VectorGemm.PanelSource rows(QuantizedTensor w, DType compute) {
        return of(w, compute).rows();
    }
}
