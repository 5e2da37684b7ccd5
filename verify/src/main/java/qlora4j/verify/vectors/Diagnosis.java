package qlora4j.verify.vectors;

import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import qlora4j.tensor.Tensor;

/**
 * Why a tensor differs: each {@link Fault} is applied to the operation, and one that gives the other implementation's
 * tensor is the finding. A fault that changes nothing here is no hypothesis.
 *
 * @param findings the faults that explain every difference; several where the vectors cannot tell them apart
 * @param nearest the fault that explains most of the differences where none explains all; null for none that helps
 * @param left what {@code nearest} leaves: elements for exact tensors, the largest difference for others
 */
record Diagnosis(List<Fault> findings, Fault nearest, double left) {
    /** A nearest fault must explain at least this share of what differs. */
    private static final double EXPLAINS = 0.5;

    static Diagnosis of(Operation operation, Operation.Output output, Tensor theirs, Tensor ours) {
        double clean = distance(theirs, ours, output);
        List<Fault> findings = new ArrayList<>();
        Fault nearest = null;
        double least = clean * (1 - EXPLAINS);
        for (Fault fault : Fault.values()) {
            Map<String, Tensor> outputs = operation.compute(fault);
            Tensor hypothesis = outputs.get(output.name());
            if (distance(hypothesis, ours, output) <= output.limit()) {
                continue;
            }
            double left = distance(theirs, hypothesis, output);
            if (left <= output.limit()) {
                findings.add(fault);
            } else if (left < least) {
                least = left;
                nearest = fault;
            }
        }
        return findings.isEmpty() ? new Diagnosis(List.of(), nearest, least) : new Diagnosis(findings, null, 0);
    }

    /**
     * Elements that differ for exact outputs, the largest difference for others; infinite for other sizes, and where one
     * alone is a NaN.
     */
    static double distance(Tensor theirs, Tensor ours, Operation.Output output) {
        if (theirs.size() != ours.size() || theirs.dtype() != ours.dtype()) {
            return Double.POSITIVE_INFINITY;
        }
        if (output.isExact()) {
            return UlpHistogram.of(theirs, ours).differing();
        }
        double worst = 0;
        for (long i = 0; i < ours.size(); i++) {
            double d = Math.abs(theirs.get(i) - ours.get(i));
            if (Double.isNaN(d)) {
                return Double.POSITIVE_INFINITY;
            }
            worst = Math.max(worst, d);
        }
        return worst;
    }
}
