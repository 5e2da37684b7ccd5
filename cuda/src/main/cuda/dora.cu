// What DoRA (Liu et al. 2024) needs beside the products of a linear layer; qlora4j.lora.DoraKernels has the equations,
// ScalarDora is the reference. T is float32; sums of a row's norm are float64, which costs nothing at these sizes.
#include "types.cuh"

__device__ __forceinline__ double warp_sum(double v) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        v += __shfl_xor_sync(0xffffffff, v, lane);
    }
    return v;
}

// squares[j] = sum over k of w[j, k]^2: a block of 256 threads a row.
template <typename W>
__device__ void row_squares(const W *w, int cols, f32 *squares) {
    __shared__ double part[8];
    const W *row = w + (long long)blockIdx.x * cols;
    double sum = 0;
    for (int k = threadIdx.x; k < cols; k += 256) {
        double v = to_f32(row[k]);
        sum += v * v;
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = sum;
    }
    __syncthreads();
    if (threadIdx.x == 0) {
        for (int i = 1; i < 8; i++) {
            sum += part[i];
        }
        squares[blockIdx.x] = (f32)sum;
    }
}

// norm[j] and gain[j] of an output feature: a warp each, eight a block. b [out, r], wa [r, out], aa [r, r].
extern "C" __global__ void __launch_bounds__(256) gain_f32(const f32 *squares, const f32 *wa, const f32 *aa,
        const f32 *b, double scale, const f32 *magnitude, f32 *norm, f32 *gain, int out, int r) {
    int j = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (j >= out) {
        return;
    }
    const f32 *row = b + (long long)j * r;
    double linear = 0, quadratic = 0;
    for (int k = lane; k < r; k += 32) {
        double inner = 0;
        for (int l = 0; l < r; l++) {
            inner += (double)aa[(long long)k * r + l] * row[l];
        }
        linear += (double)row[k] * wa[(long long)k * out + j];
        quadratic += row[k] * inner;
    }
    linear = warp_sum(linear);
    quadratic = warp_sum(quadratic);
    if (lane == 0) {
        double square = squares[j] + 2 * scale * linear + scale * scale * quadratic;
        f32 n = (f32)sqrt(square > 0 ? square : square == square ? 0.0 : square);
        norm[j] = n;
        gain[j] = n == 0 ? 1.f : magnitude[j] / n;
    }
}

// out[i, j] = (gain[j] + shift) * x[i, j] + residual[i, j] + bias[j]; gain, residual, bias may be null. One element a
// thread.
template <typename T>
__device__ void scale_columns(const T *x, const f32 *gain, float shift, const T *residual, const T *bias, long long n,
        int cols, T *out) {
    long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) {
        return;
    }
    int j = i % cols;
    float v = ((gain == nullptr ? 1.f : gain[j]) + shift) * to_f32(x[i]);
    v += residual == nullptr ? 0.f : to_f32(residual[i]);
    out[i] = from_f32<T>(v + (bias == nullptr ? 0.f : to_f32(bias[j])));
}

// sum[j] += sum over i of dy[i, j] * z[i, j] / norm[j]; z and norm may be null. 32 columns a block, eight threads a
// column; a column is summed in one order.
template <typename T>
__device__ void sum_columns(const T *dy, const T *z, const f32 *norm, long long rows, int cols, f32 *sum) {
    __shared__ float part[8][32];
    int j = blockIdx.x * 32 + threadIdx.x % 32, group = threadIdx.x / 32;
    float total = 0;
    for (long long i = group; i < rows && j < cols; i += 8) {
        total += to_f32(dy[i * cols + j]) * (z == nullptr ? 1.f : to_f32(z[i * cols + j]));
    }
    part[group][threadIdx.x % 32] = total;
    __syncthreads();
    if (group == 0 && j < cols) {
        for (int i = 1; i < 8; i++) {
            total += part[i][threadIdx.x];
        }
        float divisor = norm == nullptr ? 1.f : norm[j];
        sum[j] += divisor == 0 ? 0.f : total / divisor;
    }
}

#define VARIANTS(T)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) row_squares_##T(const T *w, int cols, f32 *squares) {            \
        row_squares(w, cols, squares);                                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) scale_columns_##T(const T *x, const f32 *gain, float shift,      \
            const T *residual, const T *bias, long long n, int cols, T *out) {                                         \
        scale_columns(x, gain, shift, residual, bias, n, cols, out);                                                   \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) sum_columns_##T(const T *dy, const T *z, const f32 *norm,        \
            long long rows, int cols, f32 *sum) {                                                                      \
        sum_columns(dy, z, norm, rows, cols, sum);                                                                     \
    }

VARIANTS(f32)
VARIANTS(bf16)
