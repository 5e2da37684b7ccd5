// The embedding, out[i] = table[tokens[i]], and its gradient, dTable[tokens[i]] += dOut[i] in the order of rows; see
// DecoderKernels. tokens [N], table [V, C], out [N, C].
#include "grid.cuh"
#include "block.cuh"
#include "elements.cuh"
#include "fault.cuh"

// A block a row.
template <typename T, typename O>
__device__ void forward(const int* tokens, const T* table, O* out, int c, int vocabulary, int4* faults) {
    constexpr int N = LANES<T>;
    int row = blockIdx.x;
    int token = tokens[row];
    if (token < 0 || token >= vocabulary) {
        if (threadIdx.x == 0) {
            report(faults, BAD_TOKEN, row, token, vocabulary);
        }
        return;
    }
    table += (i64) token * c;
    out += (i64) row * c;
    bool wide = aligned(table, out);
    for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) {
        float x[N];
        load(table, i, c, wide, x);
        store(out, i, c, wide, x);
    }
}

template <typename T, typename G>
__device__ void addRow(const T* dOut, G* dTable, int c) {
    constexpr int N = LANES<T>;
    bool wide = aligned(dOut, dTable);
    for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) {
        float x[N];
        float sum[N];
        load(dOut, i, c, wide, x);
        load(dTable, i, c, wide, sum);
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum[k] += x[k];
        }
        store(dTable, i, c, wide, sum);
    }
}

// How many positions a block looks at together: 32 for each of its warps, this many times.
constexpr int STRETCH = 4;

// A block a row. The block of the first row of a token adds all rows of that token, in order, each thread to its own
// columns; the other blocks of the token end as soon as they see an earlier row. blockDim.x = 256.
template <typename T, typename G>
__device__ void backward(const int* tokens, const T* dOut, G* dTable, int n, int c, int vocabulary, int4* faults) {
    constexpr int WARPS = 256 / WARP;
    __shared__ unsigned found[STRETCH][WARPS];
    int row = blockIdx.x;
    int token = tokens[row];
    if (token < 0 || token >= vocabulary) {
        if (threadIdx.x == 0) {
            report(faults, BAD_TOKEN, row, token, vocabulary);
        }
        return;
    }
    bool earlier = false;
    for (int i = threadIdx.x; i < row; i += blockDim.x) {
        earlier |= tokens[i] == token;
    }
    if (__syncthreads_or(earlier)) {
        return;
    }
    dTable += (i64) token * c;
    addRow(dOut + (i64) row * c, dTable, c);
    for (int from = row + 1; from < n; from += STRETCH * 256) {
        bool any = false;
        for (int s = 0; s < STRETCH; s++) {
            int i = from + s * 256 + threadIdx.x;
            unsigned mask = __ballot_sync(~0u, i < n && tokens[i] == token);
            if (threadIdx.x % WARP == 0) {
                found[s][threadIdx.x / WARP] = mask;
            }
            any |= mask != 0;
        }
        if (__syncthreads_or(any)) {
            for (int g = 0; g < STRETCH * WARPS; g++) {
                for (unsigned mask = found[g / WARPS][g % WARPS]; mask != 0; mask &= mask - 1) {
                    int i = from + g * WARP + __ffs(mask) - 1;
                    addRow(dOut + (i64) i * c, dTable, c);
                }
            }
            __syncthreads();
        }
    }
}

#define VARIANT(from, to, T, O)                                                                                       \
    extern "C" __global__ void __launch_bounds__(256) embedding_forward_##from##_##to(const int* tokens,              \
            const T* table, O* out, int c, int vocabulary, int4* faults) {                                            \
        next_may_begin();                                                                                              \
        previous_has_ended();                                                                                          \
        forward(tokens, table, out, c, vocabulary, faults);                                                           \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) embedding_backward_##from##_##to(const int* tokens,             \
            const T* dOut, O* dTable, int n, int c, int vocabulary, int4* faults) {                                   \
        backward(tokens, dOut, dTable, n, c, vocabulary, faults);                                                     \
    }

// Types of what is read (table, dOut), then of what is written (out, dTable).
VARIANT(f32, f32, float, float)
VARIANT(bf16, bf16, bf16, bf16)
VARIANT(bf16, f32, bf16, float)
VARIANT(f32, bf16, float, bf16)
