// Dense products (qlora4j.tensor.MatmulKernels; ScalarMatmul is the reference), row-major:
//
//   C [m, n] = alpha * op(A) * op(B) (+ C) (+ residual [m, n]) (+ bias [n])
//
//   nt   A [m, k], B [n, k]^T        nn   A [m, k], B [k, n]        tn   A [k, m]^T, B [k, n]
//
//   gemm_{nt,nn,tn}_{wide,narrow}   on tensor cores: elements of A and B are rounded to bfloat16, sums are float32
//   gemm_f32                        sums of float32 fused multiply-adds, for any types
//   gemm_sum                        adds the parts of k that gridDim.z blocks made, in order
//
// A, B and C are float32 or bfloat16 each; their rows are `..._stride` elements apart. Where `slots` is given, only rows r
// with slots[r] == slot take part: rows of C (nt, nn) or the terms of the sums (tn); other rows of C are left alone.
#include "ptx.cuh"
#include "numbers.cuh"

#define THREADS 256

enum Type { FLOAT32, BFLOAT16, FLOAT16 };

__device__ inline float load_element(const void *p, long i, int type) {
    return type == FLOAT32 ? ((const float *)p)[i] : type == BFLOAT16 ? to_f32(((const bf16 *)p)[i])
            : to_f32(((const f16 *)p)[i]);
}

__device__ inline void store_element(void *p, long i, int type, float v) {
    if (type == FLOAT32) {
        ((float *)p)[i] = v;
    } else if (type == BFLOAT16) {
        ((bf16 *)p)[i] = from_f32<bf16>(v);
    } else {
        ((f16 *)p)[i] = from_f32<f16>(v);
    }
}

// Where results go; rows of C and of the residual are `stride` elements apart. With parts > 1 sums go to `partial`
// [parts, m, n] as they are.
struct Output {
    void *c;
    int type, stride, m, n;
    float alpha;
    int accumulate;
    const void *residual, *bias;
    const int *slots;       // null where rows of C are not chosen
    int slot;
    float *partial;
    int parts;

    __device__ bool takes(int row) const {
        return row < m && (slots == nullptr || slots[row] == slot);
    }

    // Writes the sum of a row's element; `part` is the part of k that it is over.
    __device__ void write(int row, int column, int part, float sum) const {
        if (parts > 1) {
            partial[((long)part * m + row) * n + column] = sum;
            return;
        }
        long at = (long)row * stride + column;
        sum *= alpha;
        sum += bias == nullptr ? 0 : load_element(bias, column, type);
        sum += residual == nullptr ? 0 : load_element(residual, at, type);
        sum += accumulate ? load_element(c, at, type) : 0;
        store_element(c, at, type, sum);
    }

    template <class T>
    __device__ void add8(const void *p, long i, float *v) const {
        float more[8];
        load8((const T *)p + i, more);
#pragma unroll
        for (int j = 0; j < 8; j++) {
            v[j] += more[j];
        }
    }

    template <class T>
    __device__ void write8(long at, int column, float *v) const {
        if (bias != nullptr) {
            add8<T>(bias, column, v);
        }
        if (residual != nullptr) {
            add8<T>(residual, at, v);
        }
        if (accumulate) {
            add8<T>(c, at, v);
        }
        store8((T *)c + at, v);
    }

    // The same for up to eight elements that follow each other in a row.
    __device__ void write8(int row, int column, int part, const float *sums) const {
        bool vector = n % 8 == 0 && stride % 8 == 0 && aligned(c, 16) && aligned(residual, 16) && aligned(bias, 16);
        if (!vector || type == FLOAT16) {
#pragma unroll 1
            for (int i = 0; i < 8 && column + i < n; i++) {
                write(row, column + i, part, sums[i]);
            }
            return;
        }
        if (parts > 1) {
            store8(partial + ((long)part * m + row) * n + column, sums);
            return;
        }
        long at = (long)row * stride + column;
        float v[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            v[i] = alpha * sums[i];
        }
        if (type == FLOAT32) {
            write8<f32>(at, column, v);
        } else {
            write8<bf16>(at, column, v);
        }
    }
};

// A matrix [rows, columns], rows `stride` elements apart, that is read in pieces of eight elements of a row.
struct Source {
    const void *data;
    int type, stride, rows, columns;
    bool vector;            // whether all pieces are aligned to 16 bytes
    const int *slots;       // rows whose slot is another read as zeros; null: none
    int slot;

    __device__ Source(const void *data, int type, int stride, int rows, int columns, const int *slots, int slot)
        : data(data), type(type), stride(stride), rows(rows), columns(columns),
          vector(columns % 8 == 0 && stride % 8 == 0 && aligned(data, 16)), slots(slots), slot(slot) {
    }
};

// Eight elements as they lie in memory: float32 in both halves, bfloat16 in the first.
struct Piece {
    uint4 half[2];
};

// The same without alignment, for `count` elements; those that follow are zeros.
__device__ __noinline__ Piece load_elements(const void *data, long at, int count, int type) {
    __align__(16) float v[8];
#pragma unroll 1
    for (int i = 0; i < 8; i++) {
        v[i] = i < count ? load_element(data, at + i, type) : 0;
    }
    Piece p;
    if (type == FLOAT32) {
        p.half[0] = *(uint4 *)v;
        p.half[1] = *(uint4 *)(v + 4);
    } else {
        p.half[0] = make_uint4(pack_bf16(v[0], v[1]), pack_bf16(v[2], v[3]), pack_bf16(v[4], v[5]), pack_bf16(v[6], v[7]));
        p.half[1] = make_uint4(0, 0, 0, 0);
    }
    return p;
}

__device__ Piece load_piece(const Source &s, int row, int column, int row_end) {
    Piece p;
    p.half[0] = p.half[1] = make_uint4(0, 0, 0, 0);
    if (row >= row_end || column >= s.columns || (s.slots != nullptr && s.slots[row] != s.slot)) {
        return p;
    }
    long at = (long)row * s.stride + column;
    if (s.vector) {
        if (s.type == FLOAT32) {
            p.half[0] = ((const uint4 *)((const float *)s.data + at))[0];
            p.half[1] = ((const uint4 *)((const float *)s.data + at))[1];
        } else {
            p.half[0] = *(const uint4 *)((const bf16 *)s.data + at);
        }
        return p;
    }
    return load_elements(s.data, at, min(8, s.columns - column), s.type);
}

__device__ uint4 rounded(const Piece &p, int type) {
    if (type != FLOAT32) {
        return p.half[0];
    }
    uint4 a = p.half[0], b = p.half[1];
    return make_uint4(pack_bf16(__uint_as_float(a.x), __uint_as_float(a.y)),
            pack_bf16(__uint_as_float(a.z), __uint_as_float(a.w)), pack_bf16(__uint_as_float(b.x), __uint_as_float(b.y)),
            pack_bf16(__uint_as_float(b.z), __uint_as_float(b.w)));
}

// A tile in shared memory as it lies in its matrix: ROWS x COLUMNS, rows a piece longer so that eight pieces one above
// the other lie in different banks.
template <int ROWS, int COLUMNS>
struct Tile {
    static const int PIECES = ROWS * COLUMNS / 8 / THREADS;
    static const int STRIDE = COLUMNS + 8;
    bf16 data[ROWS * STRIDE];

    static __device__ void load(Piece *pieces, const Source &s, int row, int column, int row_end) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            int at = threadIdx.x + i * THREADS;
            pieces[i] = load_piece(s, row + at / (COLUMNS / 8), column + at % (COLUMNS / 8) * 8, row_end);
        }
    }

    __device__ void store(const Piece *pieces, int type) {
#pragma unroll
        for (int i = 0; i < PIECES; i++) {
            int at = threadIdx.x + i * THREADS;
            *(uint4 *)(data + at / (COLUMNS / 8) * STRIDE + at % (COLUMNS / 8) * 8) = rounded(pieces[i], type);
        }
    }

    __device__ const bf16 *at(int row, int column) const {
        return data + row * STRIDE + column;
    }
};

// A block computes BM x BN of C; its 8 warps, WM in m times 8 / WM in n, each a part of it.
template <int BM, int BN, int BK, int WM, bool A_BY_K, bool B_BY_K>
__device__ void gemm(const void *a, int a_type, int a_stride, const void *b, int b_type, int b_stride, int k,
        const int *k_slots, const Output &out) {
    const int WN = THREADS / WARP / WM, TM = BM / WM / 16, TN = BN / WN / 8;
    // A_BY_K: rows of A run along k; else A is [k, m]. The same for B and n.
    typedef Tile<A_BY_K ? BM : BK, A_BY_K ? BK : BM> TileA;
    typedef Tile<B_BY_K ? BN : BK, B_BY_K ? BK : BN> TileB;
    extern __shared__ __align__(16) unsigned char block_memory[];
    TileA *tiles_a = (TileA *)block_memory;
    TileB *tiles_b = (TileB *)(tiles_a + 2);
    int m0 = blockIdx.y * BM, n0 = blockIdx.x * BN;
    if (out.slots != nullptr && !__syncthreads_or(threadIdx.x < BM && out.takes(m0 + threadIdx.x))) {
        return;
    }
    int steps = (k + BK - 1) / BK, share = (steps + gridDim.z - 1) / gridDim.z;
    int first = blockIdx.z * share, last = min(steps, first + share);
    Source sa(a, a_type, a_stride, A_BY_K ? out.m : k, A_BY_K ? k : out.m, A_BY_K ? nullptr : k_slots, out.slot);
    Source sb(b, b_type, b_stride, B_BY_K ? out.n : k, B_BY_K ? k : out.n, B_BY_K ? nullptr : k_slots, out.slot);
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    int wm = warp / WN * (BM / WM), wn = warp % WN * (BN / WN);
    float acc[TM][TN][4] = {};
    Piece pa[TileA::PIECES], pb[TileB::PIECES];
    for (int step = first - 1; step < last; step++) {
        if (step + 1 < last) {
            int p = (step + 1) * BK;
            TileA::load(pa, sa, A_BY_K ? m0 : p, A_BY_K ? p : m0, sa.rows);
            TileB::load(pb, sb, B_BY_K ? n0 : p, B_BY_K ? p : n0, sb.rows);
        }
        if (step >= first) {
            const TileA &ta = tiles_a[step & 1];
            const TileB &tb = tiles_b[step & 1];
#pragma unroll
            for (int kk = 0; kk < BK; kk += 16) {
                unsigned int fa[TM][4], fb[TN / 2][4];
                int low = lane % 8, second = lane / 8 % 2 * 8, third = lane / 16 * 8;
#pragma unroll
                for (int i = 0; i < TM; i++) {
                    if (A_BY_K) {
                        load_matrices(fa[i], shared_address(ta.at(wm + 16 * i + low + second, kk + third)));
                    } else {
                        load_matrices_transposed(fa[i], shared_address(ta.at(kk + low + third, wm + 16 * i + second)));
                    }
                }
#pragma unroll
                for (int j = 0; j < TN / 2; j++) {
                    if (B_BY_K) {
                        load_matrices(fb[j], shared_address(tb.at(wn + 16 * j + low + third, kk + second)));
                    } else {
                        load_matrices_transposed(fb[j], shared_address(tb.at(kk + low + second, wn + 16 * j + third)));
                    }
                }
#pragma unroll
                for (int i = 0; i < TM; i++) {
#pragma unroll
                    for (int j = 0; j < TN; j++) {
                        mma(acc[i][j], fa[i], fb[j / 2][j % 2 * 2], fb[j / 2][j % 2 * 2 + 1]);
                    }
                }
            }
        }
        if (step + 1 < last) {
            tiles_a[(step + 1) & 1].store(pa, a_type);
            tiles_b[(step + 1) & 1].store(pb, b_type);
        }
        __syncthreads();
    }
    // Through shared memory, so that neighbouring threads write neighbouring elements.
    float *sums = (float *)block_memory;
    const int stride = BN + 4;
    float *own = sums + (wm + lane / 4) * stride + wn + 2 * (lane % 4);
#pragma unroll
    for (int i = 0; i < TM; i++) {
#pragma unroll
        for (int j = 0; j < TN; j++) {
            *(float2 *)(own + 16 * i * stride + 8 * j) = make_float2(acc[i][j][0], acc[i][j][1]);
            *(float2 *)(own + (16 * i + 8) * stride + 8 * j) = make_float2(acc[i][j][2], acc[i][j][3]);
        }
    }
    __syncthreads();
#pragma unroll 1
    for (int i = threadIdx.x * 8; i < BM * BN; i += THREADS * 8) {
        int row = m0 + i / BN, column = n0 + i % BN;
        if (column < out.n && out.takes(row)) {
            out.write8(row, column, blockIdx.z, sums + i / BN * stride + i % BN);
        }
    }
}

#define PARAMETERS                                                                                                     \
    const void *a, int a_type, int a_stride, const void *b, int b_type, int b_stride, void *c, int c_type,             \
            int c_stride, int m, int n, int k, float alpha, int accumulate, const void *residual, const void *bias,    \
            const int *slots, int slot, float *partial

#define OUTPUT(ROW_SLOTS)                                                                                              \
    Output{c, c_type, c_stride, m, n, alpha, accumulate, residual, bias, ROW_SLOTS, slot, partial, (int)gridDim.z}

#define VARIANTS(SIZE, BM, BN, BK, WM)                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) gemm_nt_##SIZE(PARAMETERS) {                              \
        gemm<BM, BN, BK, WM, true, true>(a, a_type, a_stride, b, b_type, b_stride, k, nullptr, OUTPUT(slots));                             \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) gemm_nn_##SIZE(PARAMETERS) {                              \
        gemm<BM, BN, BK, WM, true, false>(a, a_type, a_stride, b, b_type, b_stride, k, nullptr, OUTPUT(slots));                            \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 2) gemm_tn_##SIZE(PARAMETERS) {                              \
        gemm<BM, BN, BK, WM, false, false>(a, a_type, a_stride, b, b_type, b_stride, k, slots, OUTPUT(nullptr));                           \
    }

VARIANTS(wide, 128, 128, 32, 2)
VARIANTS(narrow, 64, 64, 64, 2)

extern "C" __global__ void __launch_bounds__(THREADS) gemm_sum(void *c, int c_type, int c_stride, int m, int n,
        float alpha, int accumulate, const void *residual, const void *bias, const int *slots, int slot,
        const float *partial, int parts) {
    long at = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (at >= (long)m * n) {
        return;
    }
    Output out{c, c_type, c_stride, m, n, alpha, accumulate, residual, bias, slots, slot, nullptr, 1};
    int row = at / n;
    if (out.takes(row)) {
        float sum = 0;
        for (int p = 0; p < parts; p++) {
            sum += partial[(long)p * m * n + at];
        }
        out.write(row, at % n, 0, sum);
    }
}

// A block computes 64 x 64 of C, a thread 4 x 4. a_by_k and b_by_k: whether rows of A and B run along k.
#define F32_TILE 64
#define F32_K 16

extern "C" __global__ void __launch_bounds__(THREADS) gemm_f32(PARAMETERS, int a_by_k, int b_by_k) {
    __shared__ float ta[F32_K][F32_TILE + 4], tb[F32_K][F32_TILE + 4];
    // As above, slots are of the terms where both matrices run along them.
    const int *k_slots = a_by_k ? nullptr : slots;
    Output out = OUTPUT(a_by_k ? slots : nullptr);
    int m0 = blockIdx.y * F32_TILE, n0 = blockIdx.x * F32_TILE;
    int steps = (k + F32_K - 1) / F32_K, share = (steps + gridDim.z - 1) / gridDim.z;
    int first = blockIdx.z * share * F32_K, last = min(k, first + share * F32_K);
    float acc[4][4] = {};
    int tm = threadIdx.x / 16 * 4, tn = threadIdx.x % 16 * 4;
    for (int p0 = first; p0 < last; p0 += F32_K) {
#pragma unroll
        for (int i = 0; i < F32_TILE * F32_K / THREADS; i++) {
            int at = threadIdx.x + i * THREADS;
            // Neighbouring threads read along a row.
            int p = a_by_k ? at % F32_K : at / F32_TILE, r = a_by_k ? at / F32_K : at % F32_TILE;
            bool there = p0 + p < last && m0 + r < m && (k_slots == nullptr || k_slots[p0 + p] == slot);
            long from = a_by_k ? (long)(m0 + r) * a_stride + p0 + p : (long)(p0 + p) * a_stride + m0 + r;
            ta[p][r] = there ? load_element(a, from, a_type) : 0;
            p = b_by_k ? at % F32_K : at / F32_TILE, r = b_by_k ? at / F32_K : at % F32_TILE;
            there = p0 + p < last && n0 + r < n && (k_slots == nullptr || k_slots[p0 + p] == slot);
            from = b_by_k ? (long)(n0 + r) * b_stride + p0 + p : (long)(p0 + p) * b_stride + n0 + r;
            tb[p][r] = there ? load_element(b, from, b_type) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int p = 0; p < F32_K; p++) {
            float4 va = *(const float4 *)&ta[p][tm], vb = *(const float4 *)&tb[p][tn];
            float x[4] = {va.x, va.y, va.z, va.w}, y[4] = {vb.x, vb.y, vb.z, vb.w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    acc[i][j] = __fmaf_rn(x[i], y[j], acc[i][j]);
                }
            }
        }
        __syncthreads();
    }
    __syncthreads();
    // A row of each thread's results at a time, so that what writes them stands here once.
    float *sums = &ta[0][0];
    for (int i = 0; i < 4; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            sums[threadIdx.x * 4 + j] = i == 0 ? acc[0][j] : i == 1 ? acc[1][j] : i == 2 ? acc[2][j] : acc[3][j];
        }
#pragma unroll 1
        for (int j = 0; j < 4; j++) {
            if (out.takes(m0 + tm + i) && n0 + tn + j < n) {
                out.write(m0 + tm + i, n0 + tn + j, blockIdx.z, sums[threadIdx.x * 4 + j]);
            }
        }
    }
}
