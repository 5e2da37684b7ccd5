// What a warp of attention_decode.cu does with its share of a unit's keys, by the type of elements: TensorCores for bfloat16,
// Plain for float32. Both hold for each row the largest score, and the sums of exp(s - most)·v and of exp(s - most).
#pragma once
#include "attention.cuh"

#define WARPS 4
#define THREADS (WARPS * 32)
#define UNIT 16
#define STEP 16
#define PART (4 * WARPS * STEP) // keys of a part, at least: what is done in less time than parts take to be combined

struct Call {
    const int *cuQ, *kvStart, *kvLen;
    float *lse, *workspace;
    u32* counters;
    int sequences, heads, kvHeads, d, window, splits;
    float scale;
};

// The rows of a unit: row r is query from + r / heads, head r % heads of those from `head`.
struct Unit {
    int rows, heads, head, kvHead, position, window;
    long long firstRow; // in q
};

// bfloat16 on tensor cores. Keys and values go from global memory to registers in 16-byte loads; which element of a head
// is which k of a product, or which column of a result, is chosen so that a lane uses what it loads. Scores are in log2.
template <int D>
struct TensorCores {
    typedef bf16 Element;
    u32 queries[D / 16][4];
    uint4 keys[2][D / 32], values[D / 64][4];
    float sums[D / 64][8][4], most[2], total[2];

    static __device__ __forceinline__ float scale(float s) {
        return s * LOG2E;
    }
    static __device__ __forceinline__ float power(float x) {
        return exp2_fast(x);
    }
    static __device__ __forceinline__ float logSumExp(float most, float total) {
        return (most + log2f(total)) / LOG2E;
    }
    static __device__ __forceinline__ void put(bf16* to, float x) {
        *to = from_f32<bf16>(x);
    }

    // Row and element of a head are read where they exist, else zero.
    static __device__ __forceinline__ uint4 load(const bf16* row, int element, bool valid, int d) {
        return valid && element < d ? *(const uint4*) (row + element) : make_uint4(0, 0, 0, 0);
    }

    __device__ __forceinline__ void begin(const bf16* q, const Unit& unit, const Call& c) {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < D / 32; i++) {
            uint4 x[2];
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int r = lane / 4 + 8 * h;
                const bf16* row = q + ((unit.firstRow + r / unit.heads) * c.heads + unit.head + r % unit.heads) * c.d;
                x[h] = load(row, 32 * i + lane % 4 * 8, r < unit.rows, c.d);
            }
            queries[2 * i][0] = x[0].x, queries[2 * i][1] = x[1].x, queries[2 * i][2] = x[0].y, queries[2 * i][3] = x[1].y;
            queries[2 * i + 1][0] = x[0].z, queries[2 * i + 1][1] = x[1].z;
            queries[2 * i + 1][2] = x[0].w, queries[2 * i + 1][3] = x[1].w;
        }
#pragma unroll
        for (int i = 0; i < D / 2; i++) {
            sums[i / 32][i / 4 % 8][i % 4] = 0;
        }
        most[0] = most[1] = -INFINITY;
        total[0] = total[1] = 0;
    }

    // Requests keys or values j .. j + 15, those before `end`; k, v: the sequence's first row of the kv head.
    __device__ __forceinline__ void loadKeys(const bf16* k, long long stride, int j, int end, int d) {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int n = 0; n < 2; n++) {
            int key = j + n * 8 + lane / 4;
#pragma unroll
            for (int i = 0; i < D / 32; i++) {
                keys[n][i] = load(k + key * stride, 32 * i + 8 * (lane % 4), key < end, d);
            }
        }
    }

    __device__ __forceinline__ void loadValues(const bf16* v, long long stride, int j, int end, int d) {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int i = 0; i < D / 64; i++) {
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = j + e / 2 * 8 + 2 * (lane % 4) + e % 2;
                values[i][e] = load(v + key * stride, 64 * i + 8 * (lane / 4), key < end, d);
            }
        }
    }

    // Keys j, j + WARPS·STEP and so on before `end`, STEP at a time; the next ones are on their way meanwhile.
    __device__ __forceinline__ void run(const bf16* k, const bf16* v, long long stride, int j, int end, float scale,
                                        const Unit& unit, int d) {
        if (j >= end) {
            return;
        }
        loadKeys(k, stride, j, end, d);
        loadValues(v, stride, j, end, d);
        for (; j < end; j += WARPS * STEP) {
            step(k, v, stride, j, end, scale, unit, d);
        }
    }

    __device__ __forceinline__ void step(const bf16* k, const bf16* v, long long stride, int j, int end, float scale,
                                         const Unit& unit, int d) {
        int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
        float s[2][4] = {};
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < D / 32; i++) {
                mma(s[n], queries[2 * i], keys[n][i].x, keys[n][i].y);
                mma(s[n], queries[2 * i + 1], keys[n][i].z, keys[n][i].w);
            }
        }
        loadKeys(k, stride, j + WARPS * STEP, end, d);
        float factor[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int position = unit.position + (g + 8 * h) / unit.heads;
            float now = most[h];
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int key = j + e / 2 * 8 + 2 * t + e % 2;
                float& x = s[e / 2][2 * h + e % 2];
                x = key < end && sees(position, key, unit.window) ? x * scale : -INFINITY;
                now = fmaxf(now, x);
            }
            now = quad_max(now);
            float base = now == -INFINITY ? 0 : now;
            factor[h] = power(most[h] - base);
            most[h] = now;
            float sum = 0;
#pragma unroll
            for (int e = 0; e < 4; e++) {
                float& x = s[e / 2][2 * h + e % 2];
                x = power(x - base);
                sum += x;
            }
            total[h] = total[h] * factor[h] + sum;
        }
        u32 p[4] = {pack_bf16(s[0][0], s[0][1]), pack_bf16(s[0][2], s[0][3]), pack_bf16(s[1][0], s[1][1]), pack_bf16(s[1][2], s[1][3])};
#pragma unroll
        for (int i = 0; i < D / 64; i++) {
            const uint4(&x)[4] = values[i];
            u32 words[4][4] = {{x[0].x, x[0].y, x[0].z, x[0].w}, {x[1].x, x[1].y, x[1].z, x[1].w},
                               {x[2].x, x[2].y, x[2].z, x[2].w}, {x[3].x, x[3].y, x[3].z, x[3].w}};
#pragma unroll
            for (int n = 0; n < 8; n++) {
                int half = n % 2 ? 0x7632 : 0x5410;
                u32 b0 = __byte_perm(words[0][n / 2], words[1][n / 2], half);
                u32 b1 = __byte_perm(words[2][n / 2], words[3][n / 2], half);
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    sums[i][n][e] *= factor[e / 2];
                }
                mma(sums[i][n], p, b0, b1);
            }
        }
        loadValues(v, stride, j + WARPS * STEP, end, d);
    }

    __device__ __forceinline__ void publish(float (*to)[D + 4], float* rowMost, float* rowTotal, int rows) const {
        int lane = threadIdx.x % 32;
#pragma unroll
        for (int h = 0; h < 2; h++) {
            int row = lane / 4 + 8 * h;
#pragma unroll
            for (int i = 0; i < D / 64 * 16 && row < rows; i++) {
                to[row][i / 16 * 64 + (2 * (lane % 4) + i % 2) * 8 + i / 2 % 8] = sums[i / 16][i / 2 % 8][2 * h + i % 2];
            }
            float sum = quad_sum(total[h]);
            if (lane % 4 == 0) {
                rowMost[row] = most[h];
                rowTotal[row] = sum;
            }
        }
    }
};

// float32: a lane has every 32nd element of a head. The queries wait in shared memory.
template <int D>
struct Plain {
    typedef float Element;
    float sums[UNIT][D / 32], most[UNIT], total[UNIT];

    static __device__ __forceinline__ float scale(float s) {
        return s;
    }
    static __device__ __forceinline__ float power(float x) {
        return expf(x);
    }
    static __device__ __forceinline__ float logSumExp(float most, float total) {
        return most + logf(total);
    }
    static __device__ __forceinline__ void put(float* to, float x) {
        *to = x;
    }

    float (*queries)[D];

    __device__ __forceinline__ void begin(const float* q, const Unit& unit, const Call& c) {
        __shared__ float rows[UNIT][D];
        queries = rows;
        for (int i = threadIdx.x; i < UNIT * D; i += THREADS) {
            int r = i / D, e = i % D;
            const float* row = q + ((unit.firstRow + r / unit.heads) * c.heads + unit.head + r % unit.heads) * c.d;
            queries[r][e] = r < unit.rows && e < c.d ? row[e] : 0;
        }
#pragma unroll
        for (int r = 0; r < UNIT; r++) {
            most[r] = -INFINITY;
            total[r] = 0;
#pragma unroll
            for (int i = 0; i < D / 32; i++) {
                sums[r][i] = 0;
            }
        }
        __syncthreads();
    }

    // Keys j, j + WARPS·STEP and so on before `end`, STEP at a time.
    __device__ __forceinline__ void run(const float* k, const float* v, long long stride, int j, int end, float scale,
                                        const Unit& unit, int d) {
        int lane = threadIdx.x % 32;
        for (int at = 0, key = j; key < end; at++, key = j + at / STEP * WARPS * STEP + at % STEP) {
            float x[D / 32], y[D / 32];
#pragma unroll
            for (int i = 0; i < D / 32; i++) {
                int e = lane + 32 * i;
                x[i] = e < d ? k[key * stride + e] : 0;
                y[i] = e < d ? v[key * stride + e] : 0;
            }
#pragma unroll
            for (int r = 0; r < UNIT; r++) {
                if (r >= unit.rows || !sees(unit.position + r / unit.heads, key, unit.window)) {
                    continue;
                }
                float s = 0;
#pragma unroll
                for (int i = 0; i < D / 32; i++) {
                    s = fmaf(queries[r][lane + 32 * i], x[i], s);
                }
                for (int step = 16; step > 0; step /= 2) {
                    s += __shfl_xor_sync(~0u, s, step);
                }
                float now = fmaxf(most[r], s * scale);
                float factor = power(most[r] - now), p = power(s * scale - now);
                most[r] = now;
                total[r] = total[r] * factor + p;
#pragma unroll
                for (int i = 0; i < D / 32; i++) {
                    sums[r][i] = fmaf(p, y[i], sums[r][i] * factor);
                }
            }
        }
    }

    __device__ __forceinline__ void publish(float (*to)[D + 4], float* rowMost, float* rowTotal, int rows) const {
#pragma unroll
        for (int r = 0; r < UNIT; r++) {
#pragma unroll
            for (int i = 0; i < D / 32 && r < rows; i++) {
                to[r][threadIdx.x % 32 + 32 * i] = sums[r][i];
            }
            if (threadIdx.x % 32 == 0) {
                rowMost[r] = most[r];
                rowTotal[r] = total[r];
            }
        }
    }
};
