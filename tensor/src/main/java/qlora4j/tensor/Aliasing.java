package qlora4j.tensor;

/** Checks that outputs and inputs do not share memory, for facades whose kernels rely on it. */
public final class Aliasing {
    private Aliasing() {
    }

    /** An error when {@code out} overlaps any of {@code inputs}; null inputs and plan tensors are passed over. */
    public static void checkDisjoint(String operation, Tensor out, Tensor... inputs) {
        for (Tensor in : inputs) {
            if (in != null && overlap(out, in)) {
                throw new IllegalArgumentException(operation + ": output " + out + " overlaps input " + in);
            }
        }
    }

    private static boolean overlap(Tensor a, Tensor b) {
        if (a.device().equals(Device.PLAN) || !a.device().equals(b.device())) {
            return false;
        }
        long from = Math.max(a.data().address(), b.data().address());
        long to = Math.min(a.data().address() + a.bytes(), b.data().address() + b.bytes());
        return from < to;
    }
}
