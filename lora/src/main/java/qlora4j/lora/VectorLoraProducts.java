package qlora4j.lora;

import java.util.ArrayList;
import java.util.List;
import qlora4j.blockwise.VectorQuantizedPanels;
import qlora4j.tensor.DType;
import qlora4j.tensor.Matmul;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Team;
import qlora4j.tensor.Tensor;
import qlora4j.tensor.VectorDensePanels;
import qlora4j.tensor.VectorGemm;

/**
 * Linear layers of one input as one tiled product each way, their adapters with them. The inner activations lie beside
 * x, and {@code scale·u·Bᵀ} is a few more columns in the direction of k; u itself is computed while x is packed:
 *
 * <pre>
 * [y1 | y2] = [x | u1 | u2] · [ W1ᵀ  W2ᵀ ]          dx = [dy1 | dy2 | du1 | du2] · [ W1 ]
 *                             [ B1ᵀ   0  ]                                         [ W2 ]
 *                             [  0   B2ᵀ ]                                         [ A1 ]
 *                                                                                  [ A2 ]
 * </pre>
 */
final class VectorLoraProducts {
    private final VectorGemm gemm;
    private final VectorDensePanels dense;
    private final VectorQuantizedPanels quantized;

    VectorLoraProducts(Team team) {
        this.gemm = new VectorGemm(team);
        this.dense = new VectorDensePanels(team);
        this.quantized = new VectorQuantizedPanels(team);
    }

    /** {@code silu(gate)·up}, made as it is read. */
    VectorGemm.Rows gated(Gating gating, Tensor gate, Tensor up) {
        int n = gate.cols();
        return (row, from, count, out, at) -> gating.forward(gate, up, (long) row * n + from, count, out, at);
    }

    /**
     * {@code y = residual + x·Wᵀ + scale·u·Bᵀ} of each layer.
     *
     * @param pairs of each layer, null without
     * @param rows what x is instead, of which only shape and type count then, or null; ranks are few columns then
     * @param residual of all layers, or null
     * @param u of each layer, [N, r] of its pair; {@code x·Aᵀ}, overwritten unless {@code given}
     */
    void forward(Stream s, Linear.Call[] calls, LoraPair[] pairs, Tensor x, VectorGemm.Rows rows, Tensor residual,
            Tensor[] y, Tensor[] u, boolean given) {
        List<VectorGemm.FewColumns> few = new ArrayList<>();
        List<VectorGemm.Part> parts = new ArrayList<>();
        parts.add(new VectorGemm.Part(x, rows, false, 1, few));
        int count = 1;
        for (int i = 0; i < calls.length; i++) {
            if (pairs[i] == null) {
                continue;
            }
            count++;
            parts.add(new VectorGemm.Part(u[i], (float) pairs[i].scale()));
            if (given) {
                continue;
            }
            if (pairs[i].rank() <= VectorGemm.FEW_COLUMNS) {
                few.add(new VectorGemm.FewColumns(pairs[i].a(), true, 1, u[i]));
            } else {
                Matmul.nt(s, x, pairs[i].a(), 1, u[i], false);
            }
        }
        List<VectorGemm.Result> results = new ArrayList<>();
        int part = 1;
        for (int i = 0; i < calls.length; i++) {
            VectorGemm.PanelSource[] b = new VectorGemm.PanelSource[count];
            b[0] = columns(calls[i].weight(), x.dtype());
            if (pairs[i] != null) {
                b[part++] = dense.columns(pairs[i].b());
            }
            results.add(new VectorGemm.Result(y[i], residual, false, b));
        }
        gemm.multiply(parts, results);
    }

    /**
     * {@code dx = base + Σ dy·W + du·A} over the layers, and {@code du = scale·dy·B}.
     *
     * @param pairs of each layer, null without
     * @param base dx itself or null
     * @param du of each layer, [N, r] of its pair; overwritten unless {@code given}
     * @param through whether du goes to dx; with dropout it does not yet
     */
    void backward(Stream s, Linear.Call[] calls, LoraPair[] pairs, Tensor[] dy, Tensor base, Tensor dx, Tensor[] du,
            boolean through, boolean given) {
        List<VectorGemm.Part> parts = new ArrayList<>();
        List<VectorGemm.PanelSource> b = new ArrayList<>();
        for (int i = 0; i < calls.length; i++) {
            List<VectorGemm.FewColumns> few = List.of();
            if (pairs[i] != null && !given) {
                if (pairs[i].rank() <= VectorGemm.FEW_COLUMNS) {
                    few = List.of(
                            new VectorGemm.FewColumns(pairs[i].b(), false, (float) pairs[i].scale(), du[i]));
                } else {
                    inner(s, pairs[i], dy[i], du[i]);
                }
            }
            parts.add(new VectorGemm.Part(dy[i], false, 1, few));
            b.add(rows(calls[i].weight(), dx.dtype()));
        }
        for (int i = 0; through && i < calls.length; i++) {
            if (pairs[i] != null) {
                parts.add(new VectorGemm.Part(du[i], 1));
                b.add(VectorDensePanels.rows(pairs[i].a()));
            }
        }
        gemm.multiply(parts, List.of(new VectorGemm.Result(dx, base, false, b.toArray(VectorGemm.PanelSource[]::new))));
    }

    /** {@code du = scale·dy·B} of each layer that has a pair. */
    void inner(Stream s, LoraPair[] pairs, Tensor[] dy, Tensor[] du) {
        for (int i = 0; i < pairs.length; i++) {
            if (pairs[i] != null) {
                inner(s, pairs[i], dy[i], du[i]);
            }
        }
    }

    private static void inner(Stream s, LoraPair pair, Tensor dy, Tensor du) {
        Matmul.nn(s, dy, pair.b(), (float) pair.scale(), du, false);
    }

    /**
     * {@code dB += scale·dyᵀ·u} and {@code dA += duᵀ·x} of each pair that is trained. The narrow matrices are packed side
     * by side and the wide ones are panels, so that pairs of one rank are one loop of the team.
     *
     * @param pairs of each layer, null without
     */
    void gradients(LoraPair[] pairs, Tensor[] dy, Tensor x, Tensor[] u, Tensor[] du) {
        for (int first = 0, end; first < pairs.length; first = end) {
            List<Integer> group = new ArrayList<>();
            for (end = first; end < pairs.length; end++) {
                LoraPair pair = pairs[end];
                if (pair != null && pair.trained()) {
                    if (!group.isEmpty() && pair.rank() != pairs[group.getFirst()].rank()) {
                        break;
                    }
                    group.add(end);
                }
            }
            if (!group.isEmpty()) {
                gradients(group, pairs, dy, x, u, du);
            }
        }
    }

    /** Of some pairs of one rank. */
    private void gradients(List<Integer> group, LoraPair[] pairs, Tensor[] dy, Tensor x, Tensor[] u, Tensor[] du) {
        List<VectorGemm.Part> parts = new ArrayList<>();
        List<VectorGemm.Result> results = new ArrayList<>();
        int count = 2 * group.size();
        for (int i : group) {
            results.add(narrow(pairs[i].dB(), true, VectorDensePanels.rows(dy[i]), parts.size(), count));
            parts.add(new VectorGemm.Part(u[i], true, (float) pairs[i].scale(), List.of()));
        }
        for (int i : group) {
            results.add(narrow(pairs[i].dA(), false, VectorDensePanels.rows(x), parts.size(), count));
            parts.add(new VectorGemm.Part(du[i], true, 1, List.of()));
        }
        gemm.multiply(parts, results);
    }

    /** Adds the product of one part with its panels to {@code sum}. */
    private static VectorGemm.Result narrow(Tensor sum, boolean transposed, VectorGemm.PanelSource wide, int part,
            int parts) {
        VectorGemm.PanelSource[] b = new VectorGemm.PanelSource[parts];
        b[part] = wide;
        return new VectorGemm.Result(sum, sum, transposed, b);
    }

    private VectorGemm.PanelSource columns(LinearWeight weight, DType compute) {
        return switch (weight) {
            case LinearWeight.Dense d -> dense.columns(d.w());
            case LinearWeight.Quantized q -> quantized.columns(q.w(), compute);
        };
    }

    private VectorGemm.PanelSource rows(LinearWeight weight, DType compute) {
        return switch (weight) {
            case LinearWeight.Dense d -> VectorDensePanels.rows(d.w());
            case LinearWeight.Quantized q -> quantized.rows(q.w(), compute);
        };
    }
}
