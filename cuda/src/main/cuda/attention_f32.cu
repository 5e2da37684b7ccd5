// Causal attention and its gradient in float32, all arithmetic in float32: the equations of attention_bf16.cu without
// tensor cores. DecoderKernels.attention and attentionBackward.
//
// A block of 256 threads works on 64 rows of one head: queries in the forward and for dq, keys for dk and dv. It goes over
// the other side 64 rows at a time. A thread holds 4x4 of the 64x64 scores, and 4x4 of each 64 columns of the sums. Any d up to D.
#include "attention.cuh"

#define THREADS 256
#define ROWS 64
#define PITCH 68
#define CHUNK 32

// Rows of one head in global memory; beyond `rows` and `d` they read as zero.
struct Rows {
    const float* data;
    long long stride;
    int rows, d;
    __device__ __forceinline__ float at(int row, int column) const {
        return row < rows && column < d ? data[row * stride + column] : 0;
    }
};

struct Shared {
    float p[ROWS * PITCH];       // probabilities or their gradients, transposed: [other row][own row]
    float tile[2 * CHUNK * PITCH]; // chunks of both sides, transposed, or 64 rows of 64 columns
};

// s[i][j] = a[row 4y + i]·b[row 4x + j], for thread (x, y) of 16 x 16.
__device__ __forceinline__ void dots(float (&s)[4][4], const Rows& a, const Rows& b, Shared& shared) {
    int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
    float *left = shared.tile, *right = shared.tile + CHUNK * PITCH;
#pragma unroll
    for (int i = 0; i < 16; i++) {
        s[i / 4][i % 4] = 0;
    }
    for (int from = 0; from < a.d; from += CHUNK) {
        __syncthreads();
        for (int i = threadIdx.x; i < ROWS * CHUNK; i += THREADS) {
            int row = i / CHUNK, column = i % CHUNK;
            left[column * PITCH + row] = a.at(row, from + column);
            right[column * PITCH + row] = b.at(row, from + column);
        }
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < CHUNK; k++) {
            float4 u = *(const float4*) (left + k * PITCH + y), w = *(const float4*) (right + k * PITCH + x);
            float us[4] = {u.x, u.y, u.z, u.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int i = 0; i < 16; i++) {
                s[i / 4][i % 4] = fmaf(us[i / 4], ws[i % 4], s[i / 4][i % 4]);
            }
        }
    }
}

// sums[c][i][j] += Σ over 64 other rows o of p[row 4y + i][o]·b[o][64c + 4x + j]; p as the threads hold it.
template <int D>
__device__ __forceinline__ void accumulate(float (&sums)[D / 64][4][4], const float (&p)[4][4], const Rows& b, Shared& shared) {
    int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < 4; j++) {
        *(float4*) (shared.p + (x + j) * PITCH + y) = make_float4(p[0][j], p[1][j], p[2][j], p[3][j]);
    }
#pragma unroll
    for (int c = 0; c < D / 64; c++) {
        __syncthreads();
        for (int i = threadIdx.x; i < ROWS * 64; i += THREADS) {
            shared.tile[i / 64 * PITCH + i % 64] = b.at(i / 64, c * 64 + i % 64);
        }
        __syncthreads();
#pragma unroll 4
        for (int o = 0; o < ROWS; o++) {
            float4 u = *(const float4*) (shared.p + o * PITCH + y), w = *(const float4*) (shared.tile + o * PITCH + x);
            float us[4] = {u.x, u.y, u.z, u.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
            for (int i = 0; i < 16; i++) {
                sums[c][i / 4][i % 4] = fmaf(us[i / 4], ws[i % 4], sums[c][i / 4][i % 4]);
            }
        }
    }
}

template <int D>
__device__ __forceinline__ void store(float* to, long long stride, int rows, int d, const float (&sums)[D / 64][4][4],
                                      const float (&factor)[4]) {
    int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
#pragma unroll
    for (int c = 0; c < D / 64; c++) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int row = y + i / 4, column = c * 64 + x + i % 4;
            if (row < rows && column < d) {
                to[row * stride + column] = sums[c][i / 4][i % 4] * factor[i / 4];
            }
        }
    }
}

template <int D>
__device__ __forceinline__ void forward(const float* q, const float* k, const float* v, const int* cuQ, const int* kvStart,
                                        const int* kvLen, float* out, float* lse, int sequences, int heads, int kvHeads,
                                        int d, int window, float scale) {
    __shared__ Shared shared;
    Span span;
    int head = blockIdx.x % heads;
    // The blocks at the end of a sequence see the most keys: they go first.
    if (!find_span(cuQ, sequences, ROWS, (gridDim.x - 1 - blockIdx.x) / heads, span)) {
        return;
    }
    int kvHead = head / (heads / kvHeads), rows = min(ROWS, span.length - span.from);
    int position = kvLen[span.sequence] - span.length + span.from, end = position + rows;
    long long qStride = (long long) heads * d, kvStride = (long long) kvHeads * d, row0 = span.start + span.from;
    int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
    Rows queries = {q + row0 * qStride + head * d, qStride, rows, d};
    k += kvStart[span.sequence] * kvStride + kvHead * d;
    v += kvStart[span.sequence] * kvStride + kvHead * d;
    float sums[D / 64][4][4] = {}, most[4], total[4] = {};
    for (int i = 0; i < 4; i++) {
        most[i] = -INFINITY;
    }
    for (int j = first_key(position, window); j < end; j += ROWS) {
        float s[4][4];
        dots(s, queries, {k + j * kvStride, kvStride, end - j, d}, shared);
        float factor[4];
#pragma unroll
        for (int r = 0; r < 4; r++) {
            float now = most[r];
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[r][c] = sees(position + y + r, j + x + c, window) ? s[r][c] * scale : -INFINITY;
                now = fmaxf(now, s[r][c]);
            }
            for (int step = 8; step > 0; step /= 2) {
                now = fmaxf(now, __shfl_xor_sync(~0u, now, step));
            }
            float base = now == -INFINITY ? 0 : now, sum = 0;
            factor[r] = expf(most[r] - base);
            most[r] = now;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                s[r][c] = expf(s[r][c] - base);
                sum += s[r][c];
            }
            total[r] = total[r] * factor[r] + sum;
        }
#pragma unroll
        for (int i = 0; i < D / 64 * 16; i++) {
            sums[i / 16][i / 4 % 4][i % 4] *= factor[i / 4 % 4];
        }
        accumulate<D>(sums, s, {v + j * kvStride, kvStride, end - j, d}, shared);
    }
    float inverse[4];
#pragma unroll
    for (int r = 0; r < 4; r++) {
        for (int step = 8; step > 0; step /= 2) {
            total[r] += __shfl_xor_sync(~0u, total[r], step);
        }
        inverse[r] = total[r] == 0 ? 0 : 1 / total[r];
        if (x == 0 && y + r < rows) {
            lse[(row0 + y + r) * heads + head] = total[r] == 0 ? -INFINITY : most[r] + logf(total[r]);
        }
    }
    store<D>(out + row0 * qStride + head * d, qStride, rows, d, sums, inverse);
}

struct Gradient {
    const float *dOut, *q, *k, *v, *out, *lse;
    float* delta; // [heads, rows], written with dq and read for dk and dv
    const int* cu;
    int sequences, rows, heads, kvHeads, d, window;
    float scale;
};

// dq of 64 queries of one head, and delta = Σ dOut·out of each.
template <int D>
__device__ __forceinline__ void gradient_of_queries(const Gradient& g, float* dq) {
    __shared__ Shared shared;
    __shared__ float deltas[ROWS];
    Span span;
    int head = blockIdx.x % g.heads;
    if (!find_span(g.cu, g.sequences, ROWS, (gridDim.x - 1 - blockIdx.x) / g.heads, span)) {
        return;
    }
    int rows = min(ROWS, span.length - span.from), end = span.from + rows, d = g.d;
    long long stride = (long long) g.heads * d, kvStride = (long long) g.kvHeads * d, row0 = span.start + span.from;
    long long own = row0 * stride + head * d, other = span.start * kvStride + head / (g.heads / g.kvHeads) * d;
    int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
    for (int row = threadIdx.x / 32; row < rows; row += THREADS / 32) {
        float sum = 0;
        for (int c = threadIdx.x % 32; c < d; c += 32) {
            sum = fmaf(g.dOut[own + row * stride + c], g.out[own + row * stride + c], sum);
        }
        for (int step = 16; step > 0; step /= 2) {
            sum += __shfl_xor_sync(~0u, sum, step);
        }
        deltas[row] = sum;
        if (threadIdx.x % 32 == 0) {
            g.delta[(long long) head * g.rows + row0 + row] = sum;
        }
    }
    Rows queries = {g.q + own, stride, rows, d}, dOuts = {g.dOut + own, stride, rows, d};
    float sums[D / 64][4][4] = {}, scales[4] = {g.scale, g.scale, g.scale, g.scale};
    for (int j = first_key(span.from, g.window); j < end; j += ROWS) {
        Rows keys = {g.k + other + j * kvStride, kvStride, end - j, d}, values = {g.v + other + j * kvStride, kvStride, end - j, d};
        float p[4][4], ds[4][4];
        dots(p, queries, keys, shared);
        dots(ds, dOuts, values, shared);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            int r = i / 4, c = i % 4, row = y + r;
            bool seen = row < rows && sees(span.from + row, j + x + c, g.window);
            ds[r][c] = seen ? expf(p[r][c] * g.scale - g.lse[(row0 + row) * g.heads + head]) * (ds[r][c] - deltas[row]) : 0;
        }
        accumulate<D>(sums, ds, keys, shared);
    }
    store<D>(dq + own, stride, rows, d, sums, scales);
}

// dk and dv of 64 keys of one kv head.
template <int D>
__device__ __forceinline__ void gradient_of_keys(const Gradient& g, float* dk, float* dv) {
    __shared__ Shared shared;
    Span span;
    int kvHead = blockIdx.x % g.kvHeads, group = g.heads / g.kvHeads;
    // The keys at the start of a sequence are seen by the most queries: they go first.
    if (!find_span(g.cu, g.sequences, ROWS, blockIdx.x / g.kvHeads, span)) {
        return;
    }
    int rows = min(ROWS, span.length - span.from), d = g.d;
    long long stride = (long long) g.heads * d, kvStride = (long long) g.kvHeads * d;
    long long own = (span.start + span.from) * kvStride + kvHead * d;
    int x = threadIdx.x % 16 * 4, y = threadIdx.x / 16 * 4;
    Rows keys = {g.k + own, kvStride, rows, d}, values = {g.v + own, kvStride, rows, d};
    int end = g.window == 0 ? span.length : min(span.length, span.from + rows - 1 + g.window);
    float sumK[D / 64][4][4] = {}, sumV[D / 64][4][4] = {}, one[4] = {1, 1, 1, 1};
    float scales[4] = {g.scale, g.scale, g.scale, g.scale};
    for (int head = kvHead * group; head < (kvHead + 1) * group; head++) {
        for (int j = span.from; j < end; j += ROWS) {
            long long row0 = span.start + j;
            Rows queries = {g.q + row0 * stride + head * d, stride, span.length - j, d};
            Rows dOuts = {g.dOut + row0 * stride + head * d, stride, span.length - j, d};
            float p[4][4], ds[4][4];
            dots(p, keys, queries, shared);
            dots(ds, values, dOuts, shared);
#pragma unroll
            for (int i = 0; i < 16; i++) {
                int r = i / 4, c = i % 4, row = j + x + c;
                bool seen = row < span.length && y + r < rows && sees(row, span.from + y + r, g.window);
                long long query = row0 + x + c;
                p[r][c] = seen ? expf(p[r][c] * g.scale - g.lse[query * g.heads + head]) : 0;
                ds[r][c] = seen ? p[r][c] * (ds[r][c] - g.delta[(long long) head * g.rows + query]) : 0;
            }
            accumulate<D>(sumV, p, dOuts, shared);
            accumulate<D>(sumK, ds, queries, shared);
        }
    }
    store<D>(dk + own, kvStride, rows, d, sumK, scales);
    store<D>(dv + own, kvStride, rows, d, sumV, one);
}

#define KERNELS(D)                                                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                 \
        attention_d##D##_f32(const float* q, const float* k, const float* v, const int* cuQ, const int* kvStart,          \
                             const int* kvLen, float* out, float* lse, int sequences, int heads, int kvHeads, int d,      \
                             int window, float scale) {                                                                   \
        forward<D>(q, k, v, cuQ, kvStart, kvLen, out, lse, sequences, heads, kvHeads, d, window, scale);                  \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                 \
        attention_dq_d##D##_f32(const float* dOut, const float* q, const float* k, const float* v, const float* out,      \
                                const float* lse, const int* cu, float* dq, float* delta, int sequences, int rows,        \
                                int heads, int kvHeads, int d, int window, float scale) {                                 \
        gradient_of_queries<D>({dOut, q, k, v, out, lse, delta, cu, sequences, rows, heads, kvHeads, d, window, scale},   \
                               dq);                                                                                       \
    }                                                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                 \
        attention_dkdv_d##D##_f32(const float* dOut, const float* q, const float* k, const float* v, const float* lse,    \
                                  float* delta, const int* cu, float* dk, float* dv, int sequences, int rows,       \
                                  int heads, int kvHeads, int d, int window, float scale) {                               \
        gradient_of_keys<D>({dOut, q, k, v, nullptr, lse, delta, cu, sequences, rows, heads, kvHeads, d, window, scale},  \
                            dk, dv);                                                                                      \
    }

KERNELS(64)
KERNELS(128)
KERNELS(256)
