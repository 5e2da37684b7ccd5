package qlora4j.blockwise;

import qlora4j.nf4.Absmax;
import qlora4j.nf4.Codebook;
import qlora4j.nf4.Nibbles;
import qlora4j.tensor.DType;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/** The reference: sequential loops that read as the equations, sums in double. */
final class ScalarBlockwise implements BlockwiseKernels {

    /** The length of the partial sums of {@link #mean}. */
    static final int MEAN_CHUNK = 256;

    @Override
    public void quantize4(Stream stream, Tensor x, QuantType type, int blocksize, Tensor packed, Tensor absmax) {
        Codebook codebook = type.codebook();
        for (long from = 0; from < x.size(); from += blocksize) {
            long to = Math.min(from + blocksize, x.size());
            float constant = absmax(x, 0, from, to);
            absmax.set(from / blocksize, constant);
            for (long i = from; i < to; i += 2) {
                int first = codebook.code(Absmax.normalize(element(x, i), constant));
                int second = i + 1 == to
                        ? codebook.zeroCode()
                        : codebook.code(Absmax.normalize(element(x, i + 1), constant));
                packed.set(i / 2, Byte.toUnsignedInt(Nibbles.pack(first, second)));
            }
        }
    }

    @Override
    public void dequantize4(Stream stream, QuantizedTensor w, Tensor out) {
        for (long i = 0; i < out.size(); i++) {
            out.set(i, weight(w, i));
        }
    }

    /** Element {@code i} of the dequantized tensor. */
    static float weight(QuantizedTensor w, long i) {
        int code = Nibbles.code((byte) w.packed().get(i / 2), i);
        return w.config().type().codebook().value(code) * scale(w, i / w.config().blocksize());
    }

    /** The constant of block {@code j}. */
    static float scale(QuantizedTensor w, long j) {
        if (!w.config().nested()) {
            return element(w.absmax(), j);
        }
        float value = DynamicMap.SIGNED.value((int) w.absmax().get(j));
        return value * element(w.absmax2(), j / QuantConfig.NESTED_BLOCKSIZE) + element(w.offset(), 0);
    }

    @Override
    public void mean(Stream stream, Tensor absmax, Tensor mean) {
        double total = 0;
        for (long from = 0; from < absmax.size(); from += MEAN_CHUNK) {
            double sum = 0;
            for (long i = from; i < Math.min(from + MEAN_CHUNK, absmax.size()); i++) {
                sum += absmax.get(i);
            }
            total += sum;
        }
        mean.set(0, absmax.size() == 0 ? 0 : total / absmax.size());
    }

    @Override
    public void quantize8(Stream stream, Tensor x, Tensor offset, DynamicMap map, int blocksize, Tensor codes,
            Tensor absmax) {
        float shift = offset == null ? 0 : element(offset, 0);
        for (long from = 0; from < x.size(); from += blocksize) {
            long to = Math.min(from + blocksize, x.size());
            float constant = absmax(x, shift, from, to);
            absmax.set(from / blocksize, constant);
            for (long i = from; i < to; i++) {
                codes.set(i, map.code(Absmax.normalize(element(x, i) - shift, constant)));
            }
        }
    }

    @Override
    public void dequantize8(Stream stream, Tensor codes, Tensor absmax, Tensor offset, DynamicMap map, int blocksize,
            Tensor out) {
        for (long i = 0; i < out.size(); i++) {
            float value = map.value((int) codes.get(i)) * element(absmax, i / blocksize);
            out.set(i, offset == null ? value : value + element(offset, 0));
        }
    }

    @Override
    public void matmul(Stream stream, Tensor x, QuantizedTensor w, Tensor y) {
        int in = w.inFeatures();
        int out = w.outFeatures();
        double[] row = new double[in];
        for (int o = 0; o < out; o++) {
            for (int i = 0; i < in; i++) {
                row[i] = weight(w, (long) o * in + i, x.dtype());
            }
            for (long m = 0; m < x.rows(); m++) {
                double sum = 0;
                for (int i = 0; i < in; i++) {
                    sum += x.get(m * in + i) * row[i];
                }
                y.set(m * out + o, sum);
            }
        }
    }

    @Override
    public void matmulBackward(Stream stream, Tensor dy, QuantizedTensor w, boolean accumulate, Tensor dx) {
        int in = w.inFeatures();
        int out = w.outFeatures();
        double[] column = new double[out];
        for (int i = 0; i < in; i++) {
            for (int o = 0; o < out; o++) {
                column[o] = weight(w, (long) o * in + i, dy.dtype());
            }
            for (long m = 0; m < dx.rows(); m++) {
                double sum = accumulate ? dx.get(m * in + i) : 0;
                for (int o = 0; o < out; o++) {
                    sum += dy.get(m * out + o) * column[o];
                }
                dx.set(m * in + i, sum);
            }
        }
    }

    /** Element {@code i} of the dequantized tensor, rounded to the type that the product is computed in. */
    private static double weight(QuantizedTensor w, long i, DType compute) {
        float value = weight(w, i);
        return switch (compute) {
            case BF16 -> DType.bf16ToFloat(DType.floatToBf16(value));
            case F16 -> Float.float16ToFloat(Float.floatToFloat16(value));
            default -> value;
        };
    }

    private static float absmax(Tensor x, float shift, long from, long to) {
        float absmax = 0;
        for (long i = from; i < to; i++) {
            absmax = Absmax.max(absmax, element(x, i) - shift);
        }
        return absmax;
    }

    private static float element(Tensor t, long i) {
        return (float) t.get(i);
    }
}
