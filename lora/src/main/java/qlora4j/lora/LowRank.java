package qlora4j.lora;

import java.util.Comparator;
import java.util.stream.IntStream;
import org.ejml.data.DMatrixRMaj;
import org.ejml.dense.row.CommonOps_DDRM;
import org.ejml.dense.row.factory.DecompositionFactory_DDRM;
import org.ejml.dense.row.mult.MatrixMatrixMult_MT_DDRM;
import org.ejml.interfaces.decomposition.EigenDecomposition_F64;
import org.ejml.interfaces.decomposition.QRDecomposition;
import qlora4j.tensor.Philox;

/**
 * The best approximation of a matrix by one of low rank, split evenly: {@code W ≈ B·A} with
 * {@code B = U·√S, A = √S·Vᵀ} of the largest singular values (Eckart and Young 1936).
 *
 * <p>Everything is computed in double. The exact decomposition goes by the eigenvectors of the smaller of {@code W·Wᵀ} and
 * {@code Wᵀ·W}, which is precise for the large singular values and useless for those below about 1e-7 of the largest:
 * here only the former are wanted. Its cost grows with the cube of the smaller dimension. The fast one is the randomized
 * subspace iteration of Halko, Martinsson and Tropp 2011 (algorithm 4.4, as torch.svd_lowrank has it).
 *
 * @param a [rank, cols], row by row
 * @param b [rows, rank], row by row
 */
public record LowRank(double[] a, double[] b) {
    /** Tells the fast decomposition's draws from others of the same seed. */
    private static final int PURPOSE = 0x73766472;

    /**
     * The exact decomposition.
     *
     * @param w [rows, cols], row by row
     * @param scale what {@code B·A} will be multiplied with: {@code W ≈ scale·B·A}
     */
    public static LowRank exact(double[] w, int rows, int cols, int rank, double scale) {
        check(w, rows, cols, rank);
        DMatrixRMaj m = DMatrixRMaj.wrap(rows, cols, w);
        if (rows <= cols) {
            return leftVectors(m, null, rank, scale);
        }
        DMatrixRMaj transposed = CommonOps_DDRM.transpose(m, null);
        LowRank t = leftVectors(transposed, null, rank, scale);
        return new LowRank(transpose(t.b, cols, rank), transpose(t.a, rank, rows));
    }

    /**
     * The fast decomposition.
     *
     * @param iterations rounds of products with W and its transpose; more are more precise
     * @param seed of the random start
     * @param item tells matrices under one seed apart
     */
    public static LowRank fast(double[] w, int rows, int cols, int rank, double scale, int iterations, long seed,
            int item) {
        check(w, rows, cols, rank);
        DMatrixRMaj m = DMatrixRMaj.wrap(rows, cols, w);
        Philox.Sequence draws = new Philox.Sequence(seed, PURPOSE, item);
        DMatrixRMaj start = new DMatrixRMaj(cols, rank);
        for (int i = 0; i < start.data.length; i++) {
            start.data[i] = draws.nextGaussian();
        }
        DMatrixRMaj transposed = CommonOps_DDRM.transpose(m, null);
        DMatrixRMaj q = orthonormal(product(m, start));
        for (int i = 0; i < iterations; i++) {
            q = orthonormal(product(m, orthonormal(product(transposed, q))));
        }
        DMatrixRMaj inside = product(CommonOps_DDRM.transpose(q, null), m);
        return leftVectors(inside, q, rank, scale);
    }

    private static void check(double[] w, int rows, int cols, int rank) {
        if (w.length != (long) rows * cols || rank < 1 || rank > Math.min(rows, cols)) {
            throw new IllegalArgumentException("rank " + rank + " of a matrix [" + rows + ", " + cols
                    + "]: give a rank of at most the smaller dimension (--lora-r, --rank-pattern)");
        }
        for (double x : w) {
            if (!Double.isFinite(x)) {
                throw new IllegalArgumentException("a weight that is not finite cannot be decomposed");
            }
        }
    }

    private static DMatrixRMaj product(DMatrixRMaj x, DMatrixRMaj y) {
        DMatrixRMaj out = new DMatrixRMaj(x.numRows, y.numCols);
        MatrixMatrixMult_MT_DDRM.mult_reorder(x, y, out);
        return out;
    }

    private static DMatrixRMaj orthonormal(DMatrixRMaj x) {
        QRDecomposition<DMatrixRMaj> qr = DecompositionFactory_DDRM.qr(x.numRows, x.numCols);
        if (!qr.decompose(x.copy())) {
            throw new IllegalStateException("no orthonormal basis of " + x.numRows + " x " + x.numCols);
        }
        return qr.getQ(null, true);
    }

    /** The factors of {@code basis·m} (or of m) by the eigenvectors of {@code m·mᵀ}. */
    private static LowRank leftVectors(DMatrixRMaj m, DMatrixRMaj basis, int rank, double scale) {
        int n = m.numRows;
        DMatrixRMaj gram = product(m, CommonOps_DDRM.transpose(m, null));
        EigenDecomposition_F64<DMatrixRMaj> eigen = DecompositionFactory_DDRM.eig(n, true, true);
        if (!eigen.decompose(gram)) {
            throw new IllegalStateException("no eigenvectors of " + n + " x " + n);
        }
        int[] order = IntStream.range(0, n).boxed()
                .sorted(Comparator.comparingDouble(i -> -eigen.getEigenvalue(i).getReal())).limit(rank)
                .mapToInt(i -> i).toArray();
        DMatrixRMaj u = new DMatrixRMaj(n, rank);
        for (int k = 0; k < rank; k++) {
            DMatrixRMaj vector = eigen.getEigenVector(order[k]);
            for (int i = 0; i < n; i++) {
                u.set(i, k, vector.data[i]);
            }
        }
        DMatrixRMaj a = product(CommonOps_DDRM.transpose(u, null), m);
        DMatrixRMaj b = basis == null ? u : product(basis, u);
        for (int k = 0; k < rank; k++) {
            double squares = 0;
            for (int j = 0; j < a.numCols; j++) {
                squares += a.get(k, j) * a.get(k, j);
            }
            double sigma = Math.sqrt(squares);
            double root = Math.sqrt(sigma / scale);
            for (int j = 0; j < a.numCols; j++) {
                a.set(k, j, sigma == 0 ? 0 : a.get(k, j) / sigma * root);
            }
            for (int i = 0; i < b.numRows; i++) {
                b.set(i, k, b.get(i, k) * root);
            }
        }
        return new LowRank(a.data, b.data);
    }

    private static double[] transpose(double[] x, int rows, int cols) {
        return CommonOps_DDRM.transpose(DMatrixRMaj.wrap(rows, cols, x), null).data;
    }
}
