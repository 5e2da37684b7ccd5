// Causal attention and its gradient in bfloat16 on tensor cores (mma.sync); softmax and all sums in float32.
// DecoderKernels.attention and attentionBackward; FlashAttention-2 (Dao 2023), without atomics.
//
//   forward   q [N, heads·d], k, v [M, kvHeads·d] -> out [N, heads·d], lse [N, heads]
//             S = q·kᵀ·scale, P = exp(S - lse), out = P·v
//   backward  dP = dOut·vᵀ, dS = P·(dP - delta)·scale with delta = Σ dOut·out
//             dq = dS·k;  dk = dSᵀ·q, dv = Pᵀ·dOut, summed over the heads that share a kv head in their order
//
// d is a multiple of 8 and at most D, the width of the tiles in shared memory; the rest of a tile is zero. A block is four
// warps with 16 rows each: queries in the forward and for dq; for dk and dv keys, so that S and dP come out transposed.
// Either way probabilities pass from one product to the next in registers.
#include "attention_tile.cuh"

#define THREADS 128
#define ROWS 64

// One online-softmax step: scores s to probabilities, of two rows a lane. `scale` includes log2(e).
template <int N>
__device__ __forceinline__ void softmax_step(float (&s)[N / 8][4], float scale, float (&most)[2], float (&total)[2],
                                             float (&factor)[2]) {
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float now = most[h];
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            now = fmaxf(now, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        }
        now = quad_max(now);
        float base = now == -INFINITY ? 0 : now * scale;
        factor[h] = exp2_fast(most[h] * scale - base);
        most[h] = now;
        float sum = 0;
#pragma unroll
        for (int n = 0; n < N / 8; n++) {
            s[n][2 * h] = exp2_fast(s[n][2 * h] * scale - base);
            s[n][2 * h + 1] = exp2_fast(s[n][2 * h + 1] * scale - base);
            sum += s[n][2 * h] + s[n][2 * h + 1];
        }
        total[h] = total[h] * factor[h] + sum;
    }
}

template <int D, int KEYS>
__device__ __forceinline__ void forward(const bf16* q, const bf16* k, const bf16* v, const int* cuQ, const int* kvStart,
                                        const int* kvLen, bf16* out, float* lse, int sequences, int heads, int kvHeads,
                                        int d, int window, float scale) {
    Span span;
    int head = blockIdx.x % heads;
    // The blocks at the end of a sequence see the most keys: they go first.
    if (!find_span(cuQ, sequences, ROWS, (gridDim.x - 1 - blockIdx.x) / heads, span)) {
        return;
    }
    int kvHead = head / (heads / kvHeads);
    int rows = min(ROWS, span.length - span.from);
    int position = kvLen[span.sequence] - span.length + span.from;
    int end = position + rows;
    long long qStride = (long long) heads * d, kvStride = (long long) kvHeads * d;
    long long row0 = span.start + span.from;
    q += row0 * qStride + head * d;
    out += row0 * qStride + head * d;
    k += kvStart[span.sequence] * kvStride + kvHead * d;
    v += kvStart[span.sequence] * kvStride + kvHead * d;

    char* shared = dynamic_shared();
    constexpr int TILE = KEYS * D * 2;
    u32 qTile = shared_address(shared), kTile = qTile + ROWS * D * 2, vTile = kTile + 2 * TILE;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float sums[D / 8][4] = {};
    float most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0};

    int first = first_key(position, window) / KEYS * KEYS;
    copy_tile<ROWS, D, THREADS>(qTile, q, qStride, rows, d);
    copy_tile<KEYS, D, THREADS>(kTile, k + first * kvStride, kvStride, end - first, d);
    copy_tile<KEYS, D, THREADS>(vTile, v + first * kvStride, kvStride, end - first, d);
    copy_commit();
    int stage = 0;
    for (int j = first; j < end; j += KEYS, stage ^= 1) {
        int next = j + KEYS;
        if (next < end) {
            copy_tile<KEYS, D, THREADS>(kTile + (stage ^ 1) * TILE, k + next * kvStride, kvStride, end - next, d);
            copy_tile<KEYS, D, THREADS>(vTile + (stage ^ 1) * TILE, v + next * kvStride, kvStride, end - next, d);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        float s[KEYS / 8][4];
        product_transposed<D, KEYS>(s, qTile, warp * 16, kTile + stage * TILE);
        if (needs_mask(position, end - 1, j, j + KEYS - 1, window)) {
#pragma unroll
            for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int at = position + warp * 16 + lane / 4 + e / 2 * 8;
                    s[n][e] = sees(at, j + n * 8 + lane % 4 * 2 + e % 2, window) ? s[n][e] : -INFINITY;
                }
            }
        }
        float factor[2];
        softmax_step<KEYS>(s, scale * LOG2E, most, total, factor);
#pragma unroll
        for (int n = 0; n < D / 8; n++) {
            sums[n][0] *= factor[0];
            sums[n][1] *= factor[0];
            sums[n][2] *= factor[1];
            sums[n][3] *= factor[1];
        }
        product<D, KEYS, D>(sums, s, vTile + stage * TILE, 0);
        __syncthreads();
    }
    copy_wait<0>();
    __syncthreads();
    float inverse[2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        total[h] = quad_sum(total[h]);
        inverse[h] = total[h] == 0 ? 0 : 1 / total[h];
        int row = warp * 16 + lane / 4 + h * 8;
        if (lane % 4 == 0 && row < rows) {
            lse[(row0 + row) * heads + head] = total[h] == 0 ? -INFINITY : most[h] * scale + logf(total[h]);
        }
    }
    store_rows<D, D>(out, qStride, rows, d, sums, inverse[0], inverse[1], shared, warp * 16, 0);
}

struct Gradient {
    const bf16 *dOut, *q, *k, *v, *out;
    const float* lse;
    float* stats; // [2, heads, rows]: delta and then lse·log2(e), written with dq and read for dk and dv
    const int* cu;
    int sequences, rows, heads, kvHeads, d, window;
    float scale;
};

// The online part of both gradients: x, y are the block's own 64 rows (q and dOut, or k and v), u, w the N rows of one
// step (k and v, or q and dOut). p = exp(x·uᵀ - lse), ds = p·(y·wᵀ - delta); sum1 += ds·u, and sum2 += p·w for keys.
template <int D, int N, int COLUMNS, bool KEYS>
__device__ __forceinline__ void gradient_step(float (&sum1)[COLUMNS / 8][4], float (&sum2)[COLUMNS / 8][4], u32 x, u32 y,
                                              u32 u, u32 w, const float (&rowStats)[2][2], const float* columnStats,
                                              int own, int other, int length, bool masked, const Gradient& g, int chunk) {
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float p[N / 8][4], ds[N / 8][4];
    product_transposed<D, N>(p, x, warp * 16, u);
    product_transposed<D, N>(ds, y, warp * 16, w);
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
#pragma unroll
        for (int e = 0; e < 4; e++) {
            int column = n * 8 + lane % 4 * 2 + e % 2;
            float delta = KEYS ? columnStats[column] : rowStats[0][e / 2];
            float lse = KEYS ? columnStats[N + column] : rowStats[1][e / 2];
            float probability = exp2_fast(p[n][e] * (g.scale * LOG2E) - lse);
            float gradient = probability * (ds[n][e] - delta);
            int a = own + warp * 16 + lane / 4 + e / 2 * 8, b = other + column;
            bool seen = !masked || (b < length && (KEYS ? sees(b, a, g.window) : sees(a, b, g.window)));
            p[n][e] = seen ? probability : 0;
            ds[n][e] = seen ? gradient : 0;
        }
    }
    product<D, N, COLUMNS>(sum1, ds, u, chunk);
    if (KEYS) {
        product<D, N, COLUMNS>(sum2, p, w, chunk);
    }
}

// dq of 64 queries of one head.
template <int D, int N>
__device__ __forceinline__ void gradient_of_queries(const Gradient& g, bf16* dq) {
    Span span;
    int head = blockIdx.x % g.heads;
    if (!find_span(g.cu, g.sequences, ROWS, (gridDim.x - 1 - blockIdx.x) / g.heads, span)) {
        return;
    }
    int rows = min(ROWS, span.length - span.from), end = span.from + rows, d = g.d;
    long long stride = (long long) g.heads * d, kvStride = (long long) g.kvHeads * d;
    long long own = (span.start + span.from) * stride + head * d;
    long long other = span.start * kvStride + head / (g.heads / g.kvHeads) * d;
    char* shared = dynamic_shared();
    constexpr int TILE = N * D * 2;
    u32 x = shared_address(shared), y = x + ROWS * D * 2, tiles = y + ROWS * D * 2;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;

    int first = first_key(span.from, g.window) / N * N;
    copy_tile<ROWS, D, THREADS>(x, g.q + own, stride, rows, d);
    copy_tile<ROWS, D, THREADS>(y, g.dOut + own, stride, rows, d);
    copy_tile<N, D, THREADS>(tiles, g.k + other + first * kvStride, kvStride, end - first, d);
    copy_tile<N, D, THREADS>(tiles + TILE, g.v + other + first * kvStride, kvStride, end - first, d);
    copy_commit();
    // delta and lse of the lane's two rows; four lanes share a row.
    float stats[2][2];
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = warp * 16 + lane / 4 + h * 8;
        float delta = 0;
        if (row < rows) {
            for (int c = lane % 4 * 8; c < d; c += 32) {
                delta += dot8(*(const uint4*) (g.dOut + own + row * stride + c), *(const uint4*) (g.out + own + row * stride + c));
            }
        }
        stats[0][h] = quad_sum(delta);
        long long at = span.start + span.from + row;
        stats[1][h] = row < rows ? g.lse[at * g.heads + head] * LOG2E : 0;
        if (lane % 4 == 0 && row < rows) {
            g.stats[(long long) head * g.rows + at] = stats[0][h];
            g.stats[((long long) g.heads + head) * g.rows + at] = stats[1][h];
        }
    }
    float sums[D / 8][4] = {}, none[D / 8][4];
    int stage = 0;
    for (int j = first; j < end; j += N, stage ^= 1) {
        int next = j + N;
        if (next < end) {
            u32 to = tiles + (stage ^ 1) * 2 * TILE;
            copy_tile<N, D, THREADS>(to, g.k + other + next * kvStride, kvStride, end - next, d);
            copy_tile<N, D, THREADS>(to + TILE, g.v + other + next * kvStride, kvStride, end - next, d);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        u32 u = tiles + stage * 2 * TILE;
        gradient_step<D, N, D, false>(sums, none, x, y, u, u + TILE, stats, nullptr, span.from, j, span.length,
                                      needs_mask(span.from, end - 1, j, j + N - 1, g.window), g, 0);
        __syncthreads();
    }
    store_rows<D, D>(dq + own, stride, rows, d, sums, g.scale, g.scale, shared, warp * 16, 0);
}

// dk and dv of 64 keys of one kv head, COLUMNS columns of them (blocks share the others).
template <int D, int N, int COLUMNS>
__device__ __forceinline__ void gradient_of_keys(const Gradient& g, bf16* dk, bf16* dv) {
    constexpr int PARTS = D / COLUMNS;
    Span span;
    int part = blockIdx.x % PARTS, kvHead = blockIdx.x / PARTS % g.kvHeads;
    // The keys at the start of a sequence are seen by the most queries: they go first.
    if (!find_span_longest_first(g.cu, g.sequences, ROWS, blockIdx.x / PARTS / g.kvHeads, span)) {
        return;
    }
    int rows = min(ROWS, span.length - span.from), d = g.d, group = g.heads / g.kvHeads;
    long long stride = (long long) g.heads * d, kvStride = (long long) g.kvHeads * d;
    long long own = (span.start + span.from) * kvStride + kvHead * d;
    char* shared = dynamic_shared();
    constexpr int TILE = N * D * 2, STAGE = 2 * TILE + 2 * N * 4;
    u32 x = shared_address(shared), y = x + ROWS * D * 2, tiles = y + ROWS * D * 2;
    int warp = threadIdx.x / 32;

    int first = span.from / N * N;
    int end = g.window == 0 ? span.length : min(span.length, span.from + rows - 1 + g.window);
    int steps = (end - first + N - 1) / N;
    auto load = [&](int step, int stage) {
        int head = kvHead * group + step / steps, from = first + step % steps * N;
        long long other = (span.start + from) * stride + head * d;
        u32 to = tiles + stage * STAGE;
        copy_tile<N, D, THREADS>(to, g.q + other, stride, span.length - from, d);
        copy_tile<N, D, THREADS>(to + TILE, g.dOut + other, stride, span.length - from, d);
        if (threadIdx.x < 2 * N) {
            int row = from + threadIdx.x % N;
            const float* stats = g.stats + (threadIdx.x / N * g.heads + head) * (long long) g.rows + span.start + row;
            copy4(to + 2 * TILE + threadIdx.x * 4, row < span.length ? stats : g.stats, row < span.length);
        }
    };
    copy_tile<ROWS, D, THREADS>(x, g.k + own, kvStride, rows, d);
    copy_tile<ROWS, D, THREADS>(y, g.v + own, kvStride, rows, d);
    load(0, 0);
    copy_commit();
    float sumK[COLUMNS / 8][4] = {}, sumV[COLUMNS / 8][4] = {};
    int stage = 0;
    for (int step = 0; step < steps * group; step++, stage ^= 1) {
        if (step + 1 < steps * group) {
            load(step + 1, stage ^ 1);
        }
        copy_commit();
        copy_wait<1>();
        __syncthreads();
        int from = first + step % steps * N;
        u32 u = tiles + stage * STAGE;
        bool masked = from + N > span.length || needs_mask(from, from + N - 1, span.from, span.from + rows - 1, g.window);
        float unused[2][2];
        gradient_step<D, N, COLUMNS, true>(sumK, sumV, x, y, u, u + TILE, unused,
                                           (const float*) (shared + 2 * ROWS * D * 2 + stage * STAGE + 2 * TILE),
                                           span.from, from, span.length, masked, g, part * COLUMNS / 8);
        __syncthreads();
    }
    store_rows<D, COLUMNS>(dk + own, kvStride, rows, d, sumK, g.scale, g.scale, shared, warp * 16, part * COLUMNS / 8);
    store_rows<D, COLUMNS>(dv + own, kvStride, rows, d, sumV, 1, 1, shared, warp * 16, part * COLUMNS / 8);
}

#define KERNELS(D, N, COLUMNS)                                                                                             \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
        attention_d##D##_bf16(const bf16* q, const bf16* k, const bf16* v, const int* cuQ, const int* kvStart,             \
                              const int* kvLen, bf16* out, float* lse, int sequences, int heads, int kvHeads, int d,       \
                              int window, float scale) {                                                                   \
        forward<D, N>(q, k, v, cuQ, kvStart, kvLen, out, lse, sequences, heads, kvHeads, d, window, scale);                \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
        attention_dq_d##D##_bf16(const bf16* dOut, const bf16* q, const bf16* k, const bf16* v, const bf16* out,           \
                                 const float* lse, const int* cu, bf16* dq, float* stats, int sequences, int rows,         \
                                 int heads, int kvHeads, int d, int window, float scale) {                                 \
        gradient_of_queries<D, N>({dOut, q, k, v, out, lse, stats, cu, sequences, rows, heads, kvHeads, d, window, scale}, \
                                  dq);                                                                                     \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                                  \
        attention_dkdv_d##D##_bf16(const bf16* dOut, const bf16* q, const bf16* k, const bf16* v, float* stats,            \
                                   const int* cu, bf16* dk, bf16* dv, int sequences, int rows, int heads, int kvHeads,     \
                                   int d, int window, float scale) {                                                       \
        gradient_of_keys<D, N, COLUMNS>({dOut, q, k, v, nullptr, nullptr, stats, cu, sequences, rows, heads, kvHeads, d,   \
                                         window, scale},                                                                   \
                                        dk, dv);                                                                           \
    }

KERNELS(64, 64, 64)
KERNELS(128, 64, 128)
KERNELS(256, 32, 128)
