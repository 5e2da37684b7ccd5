// RMSNorm (Zhang and Sennrich 2019) of rows x [N, C], and its gradient; see DecoderKernels.
//
//   rstd = 1/sqrt(mean(x^2) + eps)            y = round(x*rstd)*weight        (rounded to x's type first)
//   g = dy*weight     dx = residual + rstd*(g - x*rstd^2*mean(g*x))           dWeight += sum over rows of dy*x*rstd
//
// A block a row; sums in float32. The second read of a row comes from the caches: to keep the row in registers was slower
// on an H100 (8192x4096 bfloat16: 66 us against 55 forward, 160 against 108 backward), as fewer blocks fit.
#include "grid.cuh"
#include "block.cuh"
#include "elements.cuh"

// The weight is no kernel's result: it may be asked for before the kernel in front has ended.
template <typename W>
__device__ void prefetch_weight(const W* weight, int c) {
    constexpr int LINE = 128 / sizeof(W);
    for (int i = threadIdx.x * LINE; i < c; i += blockDim.x * LINE) {
        prefetch(weight + i);
    }
}

template <typename T, typename W>
__device__ void forward(const T* x, const W* weight, double eps, T* y, float* rstd, int c) {
    constexpr int N = LANES<T>;
    __shared__ float shared[WARP];
    i64 at = (i64) blockIdx.x * c;
    x += at;
    y += at;
    bool wide = aligned(x, y, weight);
    float sum = 0;
    for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) {
        float v[N];
        load(x, i, c, wide, v);
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum += v[k] * v[k];
        }
    }
    sum = blockSum(sum, shared);
    float r = (float) (1 / sqrt((double) sum / c + eps));
    if (threadIdx.x == 0) {
        rstd[blockIdx.x] = r;
    }
    for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) {
        float v[N];
        float w[N];
        load(x, i, c, wide, v);
        load(weight, i, c, wide, w);
#pragma unroll
        for (int k = 0; k < N; k++) {
            v[k] = rounded<T>(v[k] * r) * w[k];
        }
        store(y, i, c, wide, v);
    }
}

// residual may be null or dx; each thread reads the elements of it that it then writes.
template <typename T, typename W>
__device__ void backward(const T* dy, const T* x, const W* weight, const float* rstd, const T* residual, T* dx, int c) {
    constexpr int N = LANES<T>;
    __shared__ float shared[WARP];
    i64 at = (i64) blockIdx.x * c;
    dy += at;
    x += at;
    dx += at;
    residual = residual == nullptr ? nullptr : residual + at;
    bool wide = aligned(dy, x, weight, residual, dx);
    float r = rstd[blockIdx.x];
    float sum = 0;
    for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) {
        float d[N];
        float v[N];
        float w[N];
        load(dy, i, c, wide, d);
        load(x, i, c, wide, v);
        load(weight, i, c, wide, w);
#pragma unroll
        for (int k = 0; k < N; k++) {
            sum += d[k] * w[k] * v[k];
        }
    }
    float factor = r * r * (blockSum(sum, shared) / c);
    for (int i = threadIdx.x * N; i < c; i += blockDim.x * N) {
        float d[N];
        float v[N];
        float w[N];
        float other[N] = {};
        load(dy, i, c, wide, d);
        load(x, i, c, wide, v);
        load(weight, i, c, wide, w);
        if (residual != nullptr) {
            load(residual, i, c, wide, other);
        }
#pragma unroll
        for (int k = 0; k < N; k++) {
            d[k] = other[k] + r * (d[k] * w[k] - v[k] * factor);
        }
        store(dx, i, c, wide, d);
    }
}

// A block of 32x32 threads takes 32 columns: a row of threads every 32nd row of x; then the 32 sums are added in order.
template <typename T, typename G>
__device__ void backwardWeight(const T* dy, const T* x, const float* rstd, G* dWeight, int n, int c) {
    __shared__ float partial[WARP][WARP + 1];
    int lane = threadIdx.x % WARP;
    int first = threadIdx.x / WARP;
    int column = blockIdx.x * WARP + lane;
    float sum = 0;
    for (int i = first; column < c && i < n; i += WARP) {
        i64 at = (i64) i * c + column;
        sum += to_f32(dy[at]) * to_f32(x[at]) * rstd[i];
    }
    partial[first][lane] = sum;
    __syncthreads();
    if (first == 0 && column < c) {
        double total = 0;
        for (int k = 0; k < WARP; k++) {
            total += partial[k][lane];
        }
        dWeight[column] = from_f32<G>((float) (to_f32(dWeight[column]) + total));
    }
}

#define VARIANT(suffix, T, W)                                                                                         \
    extern "C" __global__ void __launch_bounds__(512) rmsnorm_forward_##suffix(const T* x, const W* weight,          \
            double eps, T* y, float* rstd, int c) {                                                                   \
        next_may_begin();                                                                                             \
        prefetch_weight(weight, c);                                                                                   \
        previous_has_ended();                                                                                         \
        forward(x, weight, eps, y, rstd, c);                                                                          \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(512) rmsnorm_backward_##suffix(const T* dy, const T* x,              \
            const W* weight, const float* rstd, const T* residual, T* dx, int c) {                                    \
        backward(dy, x, weight, rstd, residual, dx, c);                                                               \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(1024) rmsnorm_backward_weight_##suffix(const T* dy, const T* x,      \
            const float* rstd, W* dWeight, int n, int c) {                                                            \
        backwardWeight(dy, x, rstd, dWeight, n, c);                                                                   \
    }

// Types of the activations, then of the weight or its gradient.
VARIANT(f32_f32, float, float)
VARIANT(bf16_bf16, bf16, bf16)
VARIANT(bf16_f32, bf16, float)
