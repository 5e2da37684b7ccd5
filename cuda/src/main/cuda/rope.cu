// Rotary positions (Su et al. 2021) in place, in the half-split layout of Hugging Face checkpoints; see DecoderKernels.
//
//   (a, b) = (x[j], x[j + D/2]) of every head   ->   (a*cos - b*sin, b*cos + a*sin)
//
// A block a row of q and k together; a thread N neighbouring pairs at a time. rope_append does append_to_cache.cu's work too,
// which saves a launch and a pass over k.
#include "grid.cuh"
#include "elements.cuh"
#include "fault.cuh"
#include "rows.cuh"

template <typename T>
__device__ void rotate(T* head, const float* cos, const float* sin, int j, int half, float sign) {
    constexpr int N = LANES<T>;
    float a[N];
    float b[N];
    float c[N];
    float s[N];
    bool wide = aligned(head, head + half, cos, sin);
    load(head, j, half, wide, a);
    load(head + half, j, half, wide, b);
    load(cos, j, half, wide, c);
    load(sin, j, half, wide, s);
    float x[N];
#pragma unroll
    for (int k = 0; k < N; k++) {
        s[k] *= sign;
        x[k] = a[k] * c[k] - b[k] * s[k];
        b[k] = b[k] * c[k] + a[k] * s[k];
    }
    store(head, j, half, wide, x);
    store(head + half, j, half, wide, b);
}

// q [N, heads*D], k [N, kvHeads*D], positions [N], table [P, D]: D/2 cosines, then D/2 sines; inverse: 0 or 1.
template <typename T>
__device__ void rope(T* q, T* k, const int* positions, const float* table, int heads, int kvHeads, int dim,
        int tablePositions, int inverse, int4* faults) {
    int row = blockIdx.x;
    int position = positions[row];
    if (position < 0 || position >= tablePositions) {
        report(faults, BAD_POSITION, row, position, tablePositions);
        return;
    }
    int half = dim / 2;
    int pieces = (half + LANES<T> - 1) / LANES<T>;
    const float* cos = table + (i64) position * dim;
    for (int u = threadIdx.x; u < (heads + kvHeads) * pieces; u += blockDim.x) {
        int head = u / pieces;
        T* at = head < heads ? q + ((i64) row * heads + head) * dim : k + ((i64) row * kvHeads + head - heads) * dim;
        rotate(at, cos, cos + half, u % pieces * LANES<T>, half, inverse ? -1.0f : 1.0f);
    }
}

// Rows of keys and values in the cache: where a row's place is (append_to_cache.cu), or null.
struct Cache {
    const int *cuQ, *kvStart, *kvLen;
    char *k, *v;
    int sequences, rows;
};

// The same, and the rotated key and its value go to their place in the cache.
template <typename T>
__device__ void rope_append(T* q, T* k, const char* v, const int* positions, const float* table, int heads, int kvHeads,
        int dim, int tablePositions, const Cache& cache, int4* faults) {
    int row = blockIdx.x;
    int to = cacheRow(cache.cuQ, cache.kvStart, cache.kvLen, cache.sequences, row);
    i64 bytes = (i64) kvHeads * dim * sizeof(T);
    bool there = to >= 0 && to < cache.rows;
    if (there) {
        copyRow(v + row * bytes, cache.v + to * bytes, bytes);
    } else if (to != NO_ROW && threadIdx.x == 0) {
        report(faults, BAD_INDEX, row, to, cache.rows);
    }
    rope(q, k, positions, table, heads, kvHeads, dim, tablePositions, 0, faults);
    __syncthreads();
    if (there) {
        copyRow((const char*) k + row * bytes, cache.k + to * bytes, bytes);
    }
}

#define VARIANT(suffix, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) rope_##suffix(T* q, T* k, const int* positions,                 \
            const float* table, int heads, int kvHeads, int dim, int tablePositions, int inverse, int4* faults) {     \
        next_may_begin();                                                                                             \
        previous_has_ended();                                                                                         \
        rope(q, k, positions, table, heads, kvHeads, dim, tablePositions, inverse, faults);                           \
    }

VARIANT(f32, float)
VARIANT(bf16, bf16)

extern "C" __global__ void __launch_bounds__(256) rope_append_bf16(bf16* q, bf16* k, const char* v, const int* positions,
        const float* table, int heads, int kvHeads, int dim, int tablePositions, const int* cuQ, const int* kvStart,
        const int* kvLen, char* kCache, char* vCache, int sequences, int cacheRows, int4* faults) {
    next_may_begin();
    previous_has_ended();
    rope_append(q, k, v, positions, table, heads, kvHeads, dim, tablePositions,
            Cache{cuQ, kvStart, kvLen, kCache, vCache, sequences, cacheRows}, faults);
}
