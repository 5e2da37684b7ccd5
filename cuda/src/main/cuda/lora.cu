// The element-wise steps of the linear layer with adapters (qlora4j.lora.ComposedLora; ScalarLora is the reference).
// Its products are in gemm.cu.
//
//   dropout    out [rows, n] = dropout(x), or added: an element is kept as qlora4j.lora.Dropout says
//   add_rows   y [rows, n] = residual [rows, n] + bias [n] (either may be null), or added to y
//   sum_rows   sums [n] += the sum of dy [rows, n] over its rows, each column in one order
#include "numbers.cuh"
#include "philox.cuh"

// Elements of a thread in dropout and add_rows: two words of the generator.
#define PIECE 8

// `threshold` is ceil(p * 2^24): a word is kept where its upper 24 bits are at least that.
template <class T>
__device__ void dropout(const T *x, long rows, int n, unsigned long long seed, const int *step, const int *sample,
        const int *position, int module, unsigned int threshold, float scale, int add, T *out) {
    int pieces = (n + PIECE - 1) / PIECE;
    long at = (long)blockIdx.x * blockDim.x + threadIdx.x, row = at / pieces;
    if (row >= rows) {
        return;
    }
    int column = at % pieces * PIECE;
    unsigned int words[PIECE];
#pragma unroll
    for (int i = 0; i < PIECE / 4; i++) {
        uint4 w = philox(seed, (column / 4 + i) | module << 16, position[row], sample[row], *step);
        words[4 * i] = w.x, words[4 * i + 1] = w.y, words[4 * i + 2] = w.z, words[4 * i + 3] = w.w;
    }
    long first = row * n + column;
    float v[PIECE], before[PIECE] = {};
    bool vector = n % PIECE == 0 && aligned(x, 16) && aligned(out, 16);
    int count = min(PIECE, n - column);
    if (vector) {
        load8(x + first, v);
        if (add) {
            load8(out + first, before);
        }
    } else {
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            v[i] = i < count ? to_f32(x[first + i]) : 0;
            before[i] = add && i < count ? to_f32(out[first + i]) : 0;
        }
    }
#pragma unroll
    for (int i = 0; i < PIECE; i++) {
        float kept = words[i] >> 8 >= threshold ? __fmul_rn(v[i], scale) : 0;
        v[i] = add ? before[i] + kept : kept;
    }
    if (vector) {
        store8(out + first, v);
    } else {
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            if (i < count) {
                out[first + i] = from_f32<T>(v[i]);
            }
        }
    }
}

template <class T>
__device__ void add_rows(const T *residual, const T *bias, long rows, int n, int add, T *y) {
    int pieces = (n + PIECE - 1) / PIECE;
    long at = (long)blockIdx.x * blockDim.x + threadIdx.x, row = at / pieces;
    if (row >= rows) {
        return;
    }
    int column = at % pieces * PIECE;
    long first = row * n + column;
    if (n % PIECE == 0 && aligned(residual, 16) && aligned(bias, 16) && aligned(y, 16)) {
        float v[PIECE] = {}, more[PIECE];
        if (add) {
            load8(y + first, v);
        }
        if (bias != nullptr) {
            load8(bias + column, more);
#pragma unroll
            for (int i = 0; i < PIECE; i++) {
                v[i] += more[i];
            }
        }
        if (residual != nullptr) {
            load8(residual + first, more);
#pragma unroll
            for (int i = 0; i < PIECE; i++) {
                v[i] += more[i];
            }
        }
        store8(y + first, v);
        return;
    }
    for (int i = 0; i < min(PIECE, n - column); i++) {
        float v = add ? to_f32(y[first + i]) : 0;
        v += bias == nullptr ? 0 : to_f32(bias[column + i]);
        v += residual == nullptr ? 0 : to_f32(residual[first + i]);
        y[first + i] = from_f32<T>(v);
    }
}

// A block has 32 columns; its 8 rows of threads take turns with the rows and are added in order.
template <class T, class S>
__device__ void sum_rows(const T *dy, long rows, int n, S *sums) {
    __shared__ float part[8][32];
    int column = blockIdx.x * 32 + threadIdx.x % 32, group = threadIdx.x / 32;
    float sum = 0;
    for (long row = group; row < rows && column < n; row += 8) {
        sum += to_f32(dy[row * n + column]);
    }
    part[group][threadIdx.x % 32] = sum;
    __syncthreads();
    if (group == 0 && column < n) {
        for (int i = 1; i < 8; i++) {
            sum += part[i][threadIdx.x];
        }
        sums[column] = from_f32<S>(to_f32(sums[column]) + sum);
    }
}

#define VARIANTS(T)                                                                                                    \
    extern "C" __global__ void __launch_bounds__(256) dropout_##T(const T *x, long rows, int n,                        \
            unsigned long long seed, const int *step, const int *sample, const int *position, int module,              \
            unsigned int threshold, float scale, int add, T *out) {                                                    \
        dropout(x, rows, n, seed, step, sample, position, module, threshold, scale, add, out);                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) add_rows_##T(const T *residual, const T *bias, long rows, int n, \
            int add, T *y) {                                                                                           \
        add_rows(residual, bias, rows, n, add, y);                                                                     \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) sum_rows_##T(const T *dy, long rows, int n, int sums_are_f32,    \
            void *sums) {                                                                                              \
        if (sums_are_f32) {                                                                                            \
            sum_rows(dy, rows, n, (f32 *)sums);                                                                        \
        } else {                                                                                                       \
            sum_rows(dy, rows, n, (T *)sums);                                                                          \
        }                                                                                                              \
    }

VARIANTS(f32)
VARIANTS(bf16)
