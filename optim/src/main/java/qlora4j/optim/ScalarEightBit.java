package qlora4j.optim;

import qlora4j.blockwise.DynamicMap;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The reference of {@link EightBitKernels}. */
final class ScalarEightBit implements EightBitKernels {
    @Override
    public void adamW8(Stream stream, AdamHyper hyper, Tensor params, Tensor grads, Tensor codes1, Tensor codes2,
            Tensor absmax1, Tensor absmax2, Tensor scalars) {
        AdamConstants c = AdamConstants.of(hyper, scalars, DType.F32);
        long n = params.size();
        float[] m = new float[BLOCK];
        float[] v = new float[BLOCK];
        for (long block = 0; block * BLOCK < n; block++) {
            int size = (int) Math.min(BLOCK, n - block * BLOCK);
            float max1 = 0;
            float max2 = 0;
            for (int i = 0; i < size; i++) {
                long at = block * BLOCK + i;
                float g = (float) grads.get(at);
                boolean finite = Float.isFinite(g);
                g *= (float) c.gradScale();
                float m0 = DynamicMap.SIGNED.value((int) codes1.get(at)) * (float) absmax1.get(block);
                float v0 = DynamicMap.UNSIGNED.value((int) codes2.get(at)) * (float) absmax2.get(block);
                m[i] = finite ? m0 * (float) c.beta1() + (float) c.oneMinusBeta1() * g : 0;
                v[i] = finite ? v0 * (float) c.beta2() + (float) c.oneMinusBeta2() * g * g : 0;
                max1 = Math.max(max1, Math.abs(m[i]));
                max2 = Math.max(max2, v[i]);
                if (finite) {
                    float step = (float) c.stepSize() * (m[i] / ((float) Math.sqrt(v[i]) + (float) c.epsilon()));
                    params.set(at, ((float) params.get(at) + step) * (float) c.decay());
                }
            }
            absmax1.set(block, max1);
            absmax2.set(block, max2);
            for (int i = 0; i < size; i++) {
                codes1.set(block * BLOCK + i, firstCode(m[i], max1));
                codes2.set(block * BLOCK + i, secondCode(v[i], max2));
            }
        }
    }

    /** The code of m: the nearest, on m's side of zero. */
    static int firstCode(float m, float max) {
        if (max == 0) {
            return DynamicMap.SIGNED.code(0);
        }
        int code = DynamicMap.SIGNED.code(m / max);
        boolean negative = Float.floatToRawIntBits(m) < 0;
        if (Float.floatToRawIntBits(DynamicMap.SIGNED.value(code)) < 0 != negative) {
            code += m > 0 ? 1 : -1;
        }
        return code;
    }

    /** The code of v. */
    static int secondCode(float v, float max) {
        return max == 0 ? 0 : DynamicMap.UNSIGNED.code(v / max);
    }
}
