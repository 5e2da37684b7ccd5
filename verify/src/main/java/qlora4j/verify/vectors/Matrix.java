package qlora4j.verify.vectors;

import qlora4j.tensor.DType;
import qlora4j.tensor.Tensor;

/** A small matrix of doubles: the arithmetic of the plain definitions. */
record Matrix(int rows, int cols, double[] at) {
    static Matrix of(Tensor t) {
        double[] values = new double[Math.toIntExact(t.size())];
        for (int i = 0; i < values.length; i++) {
            values[i] = t.get(i);
        }
        return new Matrix(t.rows(), t.cols(), values);
    }

    Tensor toTensor(DType dtype) {
        Tensor t = Tensor.zeros(dtype, rows, cols);
        for (int i = 0; i < at.length; i++) {
            t.set(i, at[i]);
        }
        return t;
    }

    double get(int i, int j) {
        return at[i * cols + j];
    }

    Matrix transposed() {
        double[] out = new double[at.length];
        for (int i = 0; i < rows; i++) {
            for (int j = 0; j < cols; j++) {
                out[j * rows + i] = get(i, j);
            }
        }
        return new Matrix(cols, rows, out);
    }

    Matrix times(Matrix b) {
        double[] out = new double[rows * b.cols];
        for (int i = 0; i < rows; i++) {
            for (int k = 0; k < cols; k++) {
                for (int j = 0; j < b.cols; j++) {
                    out[i * b.cols + j] += get(i, k) * b.get(k, j);
                }
            }
        }
        return new Matrix(rows, b.cols, out);
    }

    Matrix scaled(double factor) {
        double[] out = at.clone();
        for (int i = 0; i < out.length; i++) {
            out[i] *= factor;
        }
        return new Matrix(rows, cols, out);
    }

    /** The sum; {@code b} may be one row, which is then added to every row. */
    Matrix plus(Matrix b) {
        double[] out = at.clone();
        for (int i = 0; i < out.length; i++) {
            out[i] += b.at[i % b.at.length];
        }
        return new Matrix(rows, cols, out);
    }

    /** Column j multiplied with element j of one row. */
    Matrix timesColumns(Matrix row) {
        double[] out = at.clone();
        for (int i = 0; i < out.length; i++) {
            out[i] *= row.at[i % cols];
        }
        return new Matrix(rows, cols, out);
    }
}
