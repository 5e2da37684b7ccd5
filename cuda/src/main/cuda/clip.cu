// options: --fmad=false
// Gradient clipping and the search for elements that are not finite; see OptimKernels for the order of the sums.
#include "block.cuh"
#include "elements.cuh"

constexpr int CHUNK = 4096;
constexpr int PARTIALS = 8;

constexpr int GRAD_SCALE = 3;
constexpr int SUM_OF_SQUARES = 4;
constexpr int GRAD_NORM = 5;
constexpr int CLIP_SCALE = 6;
constexpr double CLIP_EPSILON = 1e-6;

// chunkSums[c]: eight threads a chunk, one a partial sum. A thread reads UNROLL elements before it adds them.
template <typename T>
__device__ void sumChunks(const T* x, double* chunkSums, i64 n) {
    constexpr int UNROLL = 16;
    i64 chunk = ((i64) blockIdx.x * blockDim.x + threadIdx.x) / PARTIALS;
    int partial = threadIdx.x % PARTIALS;
    i64 from = chunk * CHUNK;
    int length = from >= n ? 0 : (int) min((i64) CHUNK, n - from);
    const T* row = x + from;
    double sum = 0;
    int i = partial;
    for (; i + (UNROLL - 1) * PARTIALS < length; i += UNROLL * PARTIALS) {
        T v[UNROLL];
#pragma unroll
        for (int k = 0; k < UNROLL; k++) {
            v[k] = row[i + k * PARTIALS];
        }
#pragma unroll
        for (int k = 0; k < UNROLL; k++) {
            sum += (double) v[k] * (double) v[k];
        }
    }
    for (; i < length; i += PARTIALS) {
        sum += (double) row[i] * (double) row[i];
    }
    double total = 0;
    for (int k = 0; k < PARTIALS; k++) {
        total += __shfl_sync(~0u, sum, k, PARTIALS);
    }
    if (partial == 0 && length > 0) {
        chunkSums[chunk] = total;
    }
}

extern "C" __global__ void __launch_bounds__(256) sum_of_squares_chunks_f32(const float* x, double* chunkSums, i64 n) {
    sumChunks(x, chunkSums, n);
}

extern "C" __global__ void __launch_bounds__(256) sum_of_squares_chunks_f64(const double* x, double* chunkSums,
        i64 n) {
    sumChunks(x, chunkSums, n);
}

// scalars[SUM_OF_SQUARES] = the chunks' sums added in order: by one thread, while the block brings the next ones.
extern "C" __global__ void __launch_bounds__(256) sum_of_squares_total(const double* chunkSums, i64 chunks,
        double* scalars) {
    constexpr int TILE = 2048;
    __shared__ double tile[2][TILE];
    double sum = 0;
    for (i64 from = -TILE; from < chunks; from += TILE) {
        i64 next = from + TILE;
        double* ahead = tile[next / TILE % 2];
        int bring = next < chunks ? (int) min((i64) TILE, chunks - next) : 0;
        int first = threadIdx.x < WARP ? TILE : (int) threadIdx.x - WARP;
        for (int i = first; i < bring; i += blockDim.x - WARP) {
            ahead[i] = chunkSums[next + i];
        }
        if (threadIdx.x == 0 && from >= 0) {
            const double* now = tile[from / TILE % 2];
            int add = (int) min((i64) TILE, chunks - from);
#pragma unroll 8
            for (int i = 0; i < add; i++) {
                sum += now[i];
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        scalars[SUM_OF_SQUARES] = sum;
    }
}

// GRAD_NORM = GRAD_SCALE*sqrt(SUM_OF_SQUARES), CLIP_SCALE = GRAD_SCALE*min(1, maxNorm/(GRAD_NORM + 1e-6)). One thread.
extern "C" __global__ void clip_scale(double maxNorm, double* scalars) {
    double norm = scalars[GRAD_SCALE] * sqrt(scalars[SUM_OF_SQUARES]);
    double factor = maxNorm / (norm + CLIP_EPSILON);
    scalars[GRAD_NORM] = norm;
    // Not fmin, which would turn a NaN into 1.
    scalars[CLIP_SCALE] = scalars[GRAD_SCALE] * (factor > 1 ? 1.0 : factor);
}

// count += elements of x that are NaN or infinite; count is zeroed before.
template <typename T>
__device__ void countNonFinite(const T* x, u64* count, i64 n) {
    __shared__ unsigned shared[WARP];
    unsigned bad = 0;
    i64 step = (i64) gridDim.x * blockDim.x;
    for (i64 i = (i64) blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        bad += isfinite(x[i]) ? 0 : 1;
    }
    bad = blockSum(bad, shared);
    if (threadIdx.x == 0 && bad != 0) {
        atomicAdd(count, (u64) bad);
    }
}

extern "C" __global__ void __launch_bounds__(256) non_finite_f32(const float* x, u64* count, i64 n) {
    countNonFinite(x, count, n);
}

extern "C" __global__ void __launch_bounds__(256) non_finite_f64(const double* x, u64* count, i64 n) {
    countNonFinite(x, count, n);
}
