package qlora4j.tensor;

import java.util.Arrays;

/** A dense matrix delivered as float panels of itself or of its transpose. One for a product engine. */
public final class VectorDensePanels {
    private static final int NC = VectorGemm.NC;
    private static final int KC = VectorGemm.KC;
    private final Strip[] strips;

    /** One thread's L rows of a matrix that are to become columns of a panel. */
    private static final class Strip {
        private final float[] rows = new float[Lanes.L * KC];
        private final VectorTranspose transpose = new VectorTranspose();
    }

    public VectorDensePanels(Team team) {
        this.strips = new Strip[team.size()];
        Arrays.setAll(strips, worker -> new Strip());
    }

    /** {@code B[p][j] = w[j, p]}, the transpose of {@code w [n, k]}. */
    public VectorGemm.PanelSource columns(Tensor w) {
        int k = w.cols();
        return VectorGemm.PanelSource.byPanels((p0, pc, j0, jc, panels, worker) -> {
            Strip own = strips[worker];
            for (int j = 0; j < jc; j += Lanes.L) {
                int count = Math.min(Lanes.L, jc - j);
                for (int i = 0; i < count; i++) {
                    Floats.load(w, (long) (j0 + j + i) * k + p0, pc, own.rows, i * KC);
                }
                own.transpose.run(own.rows, 0, KC, count, pc, panels, j / NC * VectorGemm.PANEL + j % NC, NC);
            }
        });
    }

    /** {@code B[p][j] = b[p, j]}, {@code b [k, n]} as it lies. */
    public static VectorGemm.PanelSource rows(Tensor b) {
        int n = b.cols();
        return (p0, pc, j0, jc, panels, worker) -> {
            int whole = b.dtype() == DType.F32 || b.dtype() == DType.BF16 ? jc / NC * NC : 0;
            for (int p = 0; p < pc; p++) {
                long row = (long) (p0 + p) * n + j0;
                if (b.dtype() == DType.F32) {
                    Lanes.loadStrided(b.data(), 4 * row, whole, panels, p * NC, NC, VectorGemm.PANEL);
                } else if (b.dtype() == DType.BF16) {
                    VectorBf16.loadStrided(b.data(), 2 * row, whole, panels, p * NC, NC, VectorGemm.PANEL);
                }
                for (int j = whole, at = whole / NC * VectorGemm.PANEL + p * NC; j < jc;
                        j += NC, at += VectorGemm.PANEL) {
                    Floats.load(b, row + j, Math.min(NC, jc - j), panels, at);
                }
            }
        };
    }
}
