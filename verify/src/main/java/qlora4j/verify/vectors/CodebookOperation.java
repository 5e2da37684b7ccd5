package qlora4j.verify.vectors;

import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.commons.statistics.distribution.NormalDistribution;
import qlora4j.blockwise.DynamicMap;
import qlora4j.nf4.Codebook;
import qlora4j.nf4.NormalFloat;
import qlora4j.tensor.Backend;
import qlora4j.tensor.Tensor;

/** The codebooks and the 8-bit maps, {@code SPEC.md} section 2. */
final class CodebookOperation implements Operation {
    @Override
    public String name() {
        return "codebook";
    }

    @Override
    public String section() {
        return "2";
    }

    @Override
    public Map<String, Tensor> inputs() {
        return Map.of();
    }

    @Override
    public List<Output> outputs() {
        return List.of(Output.exact("nf4"), Output.exact("fp4"), Output.exact("dynamic_signed"),
                Output.exact("dynamic_unsigned"));
    }

    @Override
    public Map<String, Tensor> compute(Backend backend) {
        return tables(Codebook.NF4.quantMap());
    }

    @Override
    public Map<String, Tensor> compute(Fault fault) {
        return tables(fault == Fault.CODEBOOK_IN_DOUBLE ? nf4InDouble() : Codebook.NF4.quantMap());
    }

    private static Map<String, Tensor> tables(float[] nf4) {
        Map<String, Tensor> t = new LinkedHashMap<>();
        t.put("nf4", Tensor.of(nf4, nf4.length));
        t.put("fp4", Tensor.of(Codebook.FP4.quantMap(), Codebook.SIZE));
        t.put("dynamic_signed", Tensor.of(DynamicMap.SIGNED.table(), DynamicMap.SIZE));
        t.put("dynamic_unsigned", Tensor.of(DynamicMap.UNSIGNED.table(), DynamicMap.SIZE));
        return t;
    }

    private static float[] nf4InDouble() {
        double[] values = new double[Codebook.SIZE];
        int n = 0;
        for (int half : new int[]{Codebook.SIZE / 2, Codebook.SIZE / 2 - 1}) {
            for (int i = 0; i < half; i++) {
                double p = NormalFloat.OFFSET + (0.5 - NormalFloat.OFFSET) * i / half;
                double quantile = NormalDistribution.of(0, 1).inverseCumulativeProbability(p);
                values[n++] = half == Codebook.SIZE / 2 ? quantile : -quantile;
            }
        }
        Arrays.sort(values);
        float[] table = new float[values.length];
        for (int i = 0; i < table.length; i++) {
            table[i] = (float) (values[i] / values[values.length - 1]);
        }
        return table;
    }
}
