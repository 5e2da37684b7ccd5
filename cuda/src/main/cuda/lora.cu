// The element-wise steps of the linear layer with adapters (qlora4j.lora.ComposedLora; ScalarLora is the reference).
// Its products are in gemm.cu; those of a few rows, m <= 8, here, all in float32:
//
//   lora_down  u [m, r] = x [m, in] * A [r, in]^T
//   lora_up    y [m, out] += scale * u * B [out, r]^T
//
//   dropout    out [rows, n] = dropout(x), or added: an element is kept as qlora4j.lora.Dropout says
//   add_rows   y [rows, n] = residual [rows, n] + bias [n] (either may be null), or added to y
//   sum_rows   sums [n] += the sum of dy [rows, n] over its rows, each column in one order
//
//   round_parts   to = factor * from of up to six matrices, rounded to bfloat16      add_parts   to += from of up to three
#include "grid.cuh"
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

// Matrices that lie anywhere, each copied whole; gridDim.y of them.
struct Part {
    const f32 *from;
    void *to;
    long n;
    float factor;
};

struct Parts {
    Part of[6];
};

extern "C" __global__ void __launch_bounds__(256) round_parts(const __grid_constant__ Parts all) {
    const Part &p = all.of[blockIdx.y];
    long at = ((long)blockIdx.x * blockDim.x + threadIdx.x) * PIECE;
    bf16 *to = (bf16 *)p.to + at;
    if (at + PIECE <= p.n && aligned(p.from, 16) && aligned(to, 16)) {
        float v[PIECE];
        load8(p.from + at, v);
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            v[i] *= p.factor;
        }
        store8(to, v);
        return;
    }
    for (int i = 0; i < PIECE && at + i < p.n; i++) {
        to[i] = from_f32<bf16>(p.from[at + i] * p.factor);
    }
}

extern "C" __global__ void __launch_bounds__(256) add_parts(const __grid_constant__ Parts all) {
    const Part &p = all.of[blockIdx.y];
    long at = ((long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    f32 *to = (f32 *)p.to + at;
    const f32 *from = p.from + at;
    if (at + 4 <= p.n && aligned(from, 16) && aligned(to, 16)) {
        float4 a = *(const float4 *)to, b = *(const float4 *)from;
        *(float4 *)to = make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
        return;
    }
    for (int i = 0; i < 4 && at + i < p.n; i++) {
        to[i] += from[i];
    }
}

#define FEW 8

// Rows of x, u and y that take part: all, or those with slots[row] == slot.
struct Rows {
    int m;
    const int *slots;
    int slot;

    __device__ bool takes(int row) const {
        return row < m && (slots == nullptr || slots[row] == slot);
    }
};

// Four consecutive elements as floats; p is aligned to four elements.
__device__ __forceinline__ float4 load4(const f32 *p) {
    return *(const float4 *)p;
}

__device__ __forceinline__ float4 load4(const bf16 *p) {
    uint2 v = *(const uint2 *)p;
    return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u), __uint_as_float(v.y << 16),
            __uint_as_float(v.y & 0xffff0000u));
}

// Adapters of layers that take the same x: u [m, u_stride] = x * A [rank, in]^T of each.
struct Down {
    const f32 *a;
    f32 *u;
    int rank, u_stride;
};

struct Downs {
    Down of[3];
};

// So many that most rows are read at once: what counts is the latency.
#define DOWN_THREADS 1024

// A block has a row of A; its threads' sums are added halves to halves in the warps, then the warps in order.
template <class T>
__device__ void lora_down(const T *x, Rows rows, const f32 *a, int in, f32 *u, int u_stride) {
    __shared__ float part[FEW][DOWN_THREADS / WARP];
    a += (long)blockIdx.x * in;
    float acc[FEW] = {};
    bool vector = in % 4 == 0 && aligned(x, 16) && aligned(a, 16);
    int rest = vector ? in : 0;
#pragma unroll 4
    for (int k = 4 * threadIdx.x; k < rest; k += 4 * blockDim.x) {
        float4 w = load4(a + k);
#pragma unroll
        for (int i = 0; i < FEW; i++) {
            if (i < rows.m) {
                float4 v = load4(x + (long)i * in + k);
                acc[i] = __fmaf_rn(w.x, v.x, acc[i]);
                acc[i] = __fmaf_rn(w.y, v.y, acc[i]);
                acc[i] = __fmaf_rn(w.z, v.z, acc[i]);
                acc[i] = __fmaf_rn(w.w, v.w, acc[i]);
            }
        }
    }
    for (int k = rest + threadIdx.x; k < in; k += blockDim.x) {
        float w = a[k];
#pragma unroll
        for (int i = 0; i < FEW; i++) {
            if (i < rows.m) {
                acc[i] = __fmaf_rn(w, to_f32(x[(long)i * in + k]), acc[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < FEW; i++) {
        for (int o = WARP / 2; o > 0; o /= 2) {
            acc[i] += __shfl_xor_sync(0xffffffff, acc[i], o);
        }
        if (threadIdx.x % WARP == 0) {
            part[i][threadIdx.x / WARP] = acc[i];
        }
    }
    __syncthreads();
    if (rows.takes(threadIdx.x)) {
        float sum = 0;
        for (int w = 0; w < blockDim.x / WARP; w++) {
            sum += part[threadIdx.x][w];
        }
        u[(long)threadIdx.x * u_stride + blockIdx.x] = sum;
    }
}

// Eight threads have a row of B.
template <class T>
__device__ void lora_up(const f32 *u, int u_stride, Rows rows, const f32 *b, int out, int r, float scale, T *y) {
    int at = blockIdx.x * blockDim.x + threadIdx.x, row = at / 8, part = at % 8;
    float acc[FEW] = {};
#pragma unroll 4
    for (int j = part; j < r && row < out; j += 8) {
        float w = b[(long)row * r + j];
#pragma unroll
        for (int i = 0; i < FEW; i++) {
            if (rows.takes(i)) {
                acc[i] = __fmaf_rn(w, u[(long)i * u_stride + j], acc[i]);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < FEW; i++) {
        for (int o = 4; o > 0; o /= 2) {
            acc[i] += __shfl_xor_sync(0xffffffff, acc[i], o);
        }
        if (part == i && row < out && rows.takes(i)) {
            T &to = y[(long)i * out + row];
            to = from_f32<T>(to_f32(to) + scale * acc[i]);
        }
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
    extern "C" __global__ void __launch_bounds__(DOWN_THREADS) lora_down_##T(const T *x, int m, const int *slots, int slot,      \
            int in, const __grid_constant__ Downs all) {                                                               \
        const Down &d = all.of[blockIdx.y];                                                                            \
        next_may_begin();                                                                                              \
        if (blockIdx.x < d.rank && 32 * threadIdx.x < in) {                                                            \
            prefetch(d.a + (long)blockIdx.x * in + 32 * threadIdx.x);                                                  \
        }                                                                                                              \
        previous_has_ended();                                                                                          \
        if (blockIdx.x < d.rank) {                                                                                     \
            lora_down(x, Rows{m, slots, slot}, d.a, in, d.u, d.u_stride);                                              \
        }                                                                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) lora_up_##T(const f32 *u, int u_stride, int m, const int *slots, \
            int slot, const f32 *b, int out, int r, float scale, T *y) {                                               \
        lora_up(u, u_stride, Rows{m, slots, slot}, b, out, r, scale, y);                                               \
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
