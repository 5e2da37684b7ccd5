package qlora4j.verify.numerics;

import java.util.Map;
import qlora4j.tensor.Tensor;
import qlora4j.verify.OnBackend;

/** An operation that is measured. */
interface Case {
    /** Its results on a backend as host tensors. */
    Map<Result, Tensor> run(OnBackend on, Samples in);

    /**
     * The magnitudes of the results where something cancels; for others the results' own are taken. Unless it says
     * otherwise, those are of the operation on absolute values.
     *
     * @param in in float64, absolute
     */
    default Map<Result, Tensor> magnitudes(OnBackend scalar, Samples in) {
        return run(scalar, in);
    }
}
