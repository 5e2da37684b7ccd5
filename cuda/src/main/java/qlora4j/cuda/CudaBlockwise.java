package qlora4j.cuda;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import qlora4j.blockwise.BlockwiseKernels;
import qlora4j.blockwise.DynamicMap;
import qlora4j.blockwise.QuantType;
import qlora4j.blockwise.QuantizedTensor;
import qlora4j.cuda.Products.Epilogue;
import qlora4j.cuda.Products.Layout;
import qlora4j.cuda.Products.Matrix;
import qlora4j.nf4.Codebook;
import qlora4j.tensor.DType;
import qlora4j.tensor.MemoryUse;
import qlora4j.tensor.Stream;
import qlora4j.tensor.Tensor;

/**
 * Block-wise quantization ({@code quantize4.cu}, {@code dequantize4.cu}, {@code blockwise8.cu}) and products with 4-bit
 * matrices, which decode W as they multiply: up to 8 rows of x by {@link CudaMatvec} ({@code matvec.cu} in float32), up to
 * 64 by {@link CudaSmallm}; for more, W is dequantized into the workspace and {@link Products} does the rest.
 */
final class CudaBlockwise implements BlockwiseKernels {
    private static final int THREADS = 256;
    /** Elements a thread of quantize and dequantize holds. */
    static final int PIECE = 8;
    private static final int WARP = 32;
    private static final int MEAN_CHUNK = 256;
    /** Threads that sum a chunk. */
    private static final int MEAN_SHARE = 8;
    /** Blocks a multiprocessor of quantize4 and dequantize4, which make tables first and then walk over their pieces. */
    private static final int QUANTIZE_BLOCKS = 4;
    private static final int DEQUANTIZE_BLOCKS = 3;

    /** {@code struct Codebook} of codebook.cuh: values, thresholds, codes by rank, two flags. */
    private static final int CODEBOOK_WORDS = 3 * Codebook.SIZE + 2;
    /** Codebooks begin at such offsets. */
    private static final int CODEBOOK_BYTES = 256;

    /** Columns that a lane of the tensor-core kernels decodes at once: `in` must be a multiple. */
    private static final int LANE_COLUMNS = 32;
    private static final int WORD_COLUMNS = 8;

    private final CudaBackend cuda;
    private final Products products;
    private final Tensor codebooks;
    private final Tensor maps;
    private final Variants quantize4;
    private final Variants dequantize4;
    private final Variants quantize8;
    private final Variants dequantize8;
    private final Kernel meanChunks;
    private final Kernel meanTotal;
    private final CudaMatvec matvec;
    private final Kernel matvecF32;
    private final CudaSmallm smallm;

    CudaBlockwise(CudaBackend cuda, Products products) {
        this.cuda = cuda;
        this.products = products;
        codebooks = cuda.allocate(MemoryUse.WORKSPACE, DType.U8, (long) QuantType.values().length * CODEBOOK_BYTES);
        maps = cuda.allocate(MemoryUse.WORKSPACE, DType.F32, DynamicMap.values().length, DynamicMap.SIZE);
        uploadTables();
        CudaModules m = cuda.modules();
        DType[] all = {DType.F64, DType.F32, DType.BF16, DType.F16};
        quantize4 = Variants.of(m, "quantize4", "quantize4", all);
        dequantize4 = Variants.of(m, "dequantize4", "dequantize4", all);
        quantize8 = Variants.of(m, "blockwise8", "quantize8", all);
        dequantize8 = Variants.of(m, "blockwise8", "dequantize8", all);
        meanChunks = m.kernel("blockwise8", "mean_chunks");
        meanTotal = m.kernel("blockwise8", "mean_total");
        matvec = new CudaMatvec(cuda);
        matvecF32 = m.kernel("matvec", "nf4_matvec_f32");
        smallm = new CudaSmallm(cuda);
    }

    private void uploadTables() {
        Tensor host = Tensor.zeros(DType.U8, codebooks.shape());
        for (QuantType type : QuantType.values()) {
            write(type.codebook(), host.data().asSlice((long) type.ordinal() * CODEBOOK_BYTES, CODEBOOK_BYTES));
        }
        cuda.upload(host, codebooks);
        Tensor values = Tensor.zeros(DType.F32, maps.shape());
        for (DynamicMap map : DynamicMap.values()) {
            values.rows(map.ordinal(), map.ordinal() + 1).copyFrom(Tensor.of(map.table(), DynamicMap.SIZE));
        }
        cuda.upload(values, maps);
    }

    private static void write(Codebook codebook, MemorySegment to) {
        if (CODEBOOK_WORDS * Integer.BYTES > CODEBOOK_BYTES) {
            throw new IllegalStateException("codebooks overlap");
        }
        float[] thresholds = codebook.thresholds();
        for (int i = 0; i < Codebook.SIZE; i++) {
            to.setAtIndex(ValueLayout.JAVA_FLOAT, i, codebook.value(i));
            to.setAtIndex(ValueLayout.JAVA_FLOAT, Codebook.SIZE + i,
                    i < thresholds.length ? thresholds[i] : Float.POSITIVE_INFINITY);
            to.setAtIndex(ValueLayout.JAVA_INT, 2 * Codebook.SIZE + i,
                    (int) (codebook.codesByRank() >>> (4 * i)) & 0xf);
        }
        to.setAtIndex(ValueLayout.JAVA_INT, 3 * Codebook.SIZE, codebook.signMagnitude() ? 1 : 0);
        to.setAtIndex(ValueLayout.JAVA_INT, 3 * Codebook.SIZE + 1, codebook.zeroCode());
    }

    long codebook(QuantType type) {
        return codebooks.data().address() + (long) type.ordinal() * CODEBOOK_BYTES;
    }

    private long map(DynamicMap map) {
        return maps.data().address() + DType.F32.bytes((long) map.ordinal() * DynamicMap.SIZE);
    }

    /** The 256 values by which nested constants are known. */
    long signedMap() {
        return map(DynamicMap.SIGNED);
    }

    private static int log2(int blocksize) {
        return Integer.numberOfTrailingZeros(blocksize);
    }

    /** Blocks for so many threads, at most {@code each} a multiprocessor. */
    private long grid(long threads, int each) {
        return Math.min(Math.ceilDiv(threads, THREADS), (long) each * cuda.context().multiprocessors());
    }

    /** Threads that share a block of elements. */
    private static int group(int blocksize) {
        return Math.min(blocksize / PIECE, WARP);
    }

    @Override
    public void quantize4(Stream stream, Tensor x, QuantType type, int blocksize, Tensor packed, Tensor absmax) {
        cuda.quantized();
        quantize4.get(x).launch((CudaStream) stream, grid(absmax.size() * group(blocksize), QUANTIZE_BLOCKS), THREADS,
                Kernel.args().ptr(x).i64(x.size())
                        .ptr(codebook(type)).i32(blocksize).ptr(packed).ptr(absmax));
    }

    @Override
    public void dequantize4(Stream stream, QuantizedTensor w, Tensor out) {
        dequantize((CudaStream) stream, w, dequantize4.get(out), 0, w.size(), out.data().address());
    }

    private void dequantize(CudaStream s, QuantizedTensor w, Kernel kernel, long from, long to, long out) {
        kernel.launchEarly(s, grid(Math.ceilDiv(to - from, PIECE), DEQUANTIZE_BLOCKS), THREADS,
                weight(Kernel.args(), w).i64(from).i64(to).ptr(out));
    }

    /**
     * Elements of W in bfloat16.
     *
     * @param from a multiple of 8
     * @param out where W's first element would be
     */
    void dequantize(CudaStream s, QuantizedTensor w, long from, long to, long out) {
        dequantize(s, w, dequantize4.get(Tensor.shapeOnly(DType.BF16, 1)), from, to, out);
    }

    /** The arguments that describe a quantized tensor. */
    private Kernel.Args weight(Kernel.Args args, QuantizedTensor w) {
        return args.ptr(w.packed()).ptr(w.absmax()).ptr(w.absmax2()).ptr(w.offset()).ptr(signedMap())
                .i32(log2(w.config().blocksize())).ptr(codebook(w.config().type()));
    }

    @Override
    public void mean(Stream stream, Tensor absmax, Tensor mean) {
        CudaStream s = (CudaStream) stream;
        long n = absmax.size();
        long chunks = Math.ceilDiv(n, MEAN_CHUNK);
        long sums = cuda.workspace(DType.F64.bytes(Math.max(1, chunks)));
        meanChunks.launch(s, Math.ceilDiv(chunks * MEAN_SHARE, THREADS), THREADS,
                Kernel.args().ptr(absmax).i64(n).ptr(sums));
        meanTotal.launch(s, 1, 1024, Kernel.args().ptr(sums).i64(chunks).i64(n).ptr(mean));
    }

    @Override
    public void quantize8(Stream stream, Tensor x, Tensor offset, DynamicMap map, int blocksize, Tensor codes,
            Tensor absmax) {
        quantize8.get(x).launch((CudaStream) stream, Math.ceilDiv(absmax.size() * group(blocksize), THREADS), THREADS,
                Kernel.args().ptr(x).i64(x.size()).ptr(offset).ptr(map(map)).i32(blocksize).ptr(codes).ptr(absmax));
    }

    @Override
    public void dequantize8(Stream stream, Tensor codes, Tensor absmax, Tensor offset, DynamicMap map, int blocksize,
            Tensor out) {
        dequantize8.get(out).launch((CudaStream) stream, Math.ceilDiv(codes.size(), THREADS), THREADS, Kernel.args()
                .ptr(codes).ptr(absmax).ptr(offset).ptr(map(map)).i32(log2(blocksize)).i64(codes.size()).ptr(out));
    }

    @Override
    public void matmul(Stream stream, Tensor x, QuantizedTensor w, Tensor y) {
        multiply((CudaStream) stream, x, w, y, false, null, null);
    }

    /** Whether {@link #multiply} adds residual and bias itself for this many rows. */
    boolean fuses(Tensor x, QuantizedTensor w) {
        return x.rows() <= CudaSmallm.ROWS && x.dtype() == DType.BF16 && decodes(x, w, LANE_COLUMNS)
                && (x.rows() <= CudaMatmul.FEW_ROWS || smallm.fits(x.rows()))
                || x.rows() <= CudaMatmul.FEW_ROWS && x.dtype() == DType.F32 && decodes(x, w, WORD_COLUMNS);
    }

    /** Whether rows of W, and of x, begin where they can be read in vectors. */
    private static boolean decodes(Tensor x, QuantizedTensor w, int columns) {
        return w.inFeatures() > 0 && w.inFeatures() % columns == 0 && CudaMatmul.aligned(x)
                && CudaMatmul.aligned(w.packed());
    }

    /** Whether {@link #multiplyFew} takes this x and w. */
    boolean takesFew(Tensor x, QuantizedTensor w) {
        return x.rows() > 0 && x.rows() <= CudaMatmul.FEW_ROWS && x.dtype() == DType.BF16 && w.outFeatures() > 0
                && fuses(x, w);
    }

    /** Products of few rows with up to {@link CudaMatvec#MOST} matrices that go {@link CudaMatvec#together}. */
    void multiplyFew(CudaStream s, Tensor x, CudaMatvec.Beside beside, CudaMatvec.Product... all) {
        matvec.multiply(s, x, signedMap(), codebook(all[0].w().config().type()), beside, all);
    }

    /** Whether {@link #multiplyFew} can do {@code beside} with {@code m} rows. */
    boolean takesBeside(int m, CudaMatvec.Beside beside, CudaMatvec.Product... all) {
        return matvec.takes(m, beside, all);
    }

    /** {@code y = x·Wᵀ + residual + bias} where {@link #fuses}; elsewhere {@code y = x·Wᵀ}, or added to y. */
    void multiply(CudaStream s, Tensor x, QuantizedTensor w, Tensor y, boolean accumulate, Tensor residual,
            Tensor bias) {
        int m = x.rows();
        int out = w.outFeatures();
        int in = w.inFeatures();
        if (m == 0 || out == 0) {
            return;
        }
        if (accumulate || !fuses(x, w)) {
            Products.check(x);
            Matrix dense = dequantized(s, w, x.dtype());
            products.multiply(s, Layout.NT, Matrix.of(x), dense, Matrix.of(y), Epilogue.plain(1, accumulate));
            return;
        }
        if (m > CudaMatmul.FEW_ROWS) {
            smallm.multiply(s, x, w, args -> weight(args, w), y, residual, bias);
            return;
        }
        if (x.dtype() == DType.BF16) {
            multiplyFew(s, x, CudaMatvec.Beside.NOTHING,
                    new CudaMatvec.Product(w, y, residual, bias, null, null));
            return;
        }
        Kernel.Args args = weight(Kernel.args().ptr(x).i32(m), w).i32(out).i32(in).ptr(residual).ptr(bias).ptr(y);
        matvecF32.launch(s, Math.ceilDiv(out, CudaMatmul.WARPS), CudaMatmul.MATVEC_THREADS, args);
    }

    /** Workspace of a product with a matrix of {@code size} elements that is dequantized to {@code type} for it. */
    static long workspaceBytes(DType type, long size) {
        return Math.max(Products.SCRATCH_BYTES, Products.OPERANDS + type.bytes(size));
    }

    /** W in the workspace, where {@link Products} would round operands: none is rounded beside it. */
    private Matrix dequantized(CudaStream s, QuantizedTensor w, DType type) {
        long at = cuda.workspace(workspaceBytes(type, w.size())) + Products.OPERANDS;
        Matrix out = new Matrix(at, type, w.outFeatures(), w.inFeatures(), w.inFeatures());
        dequantize(s, w, dequantize4.get(Tensor.shapeOnly(type, 1)), 0, w.size(), at);
        return out;
    }

    @Override
    public void matmulBackward(Stream stream, Tensor dy, QuantizedTensor w, boolean accumulate, Tensor dx) {
        Products.check(dy);
        CudaStream s = (CudaStream) stream;
        Matrix dense = dequantized(s, w, dy.dtype());
        products.multiply(s, Layout.NN, Matrix.of(dy), dense, Matrix.of(dx), Epilogue.plain(1, accumulate));
    }
}
