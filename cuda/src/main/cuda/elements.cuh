// Elements in device memory: float32 and bfloat16, computed with as float. A thread moves N elements at a time, in
// pieces of 16 bytes where the address allows it and one by one at a row's end or where a row is not aligned.
#pragma once

#include "types.cuh"

// How many elements of T fill 16 bytes.
template <typename T>
constexpr int LANES = 16 / (int) sizeof(T);

// Whether all addresses are multiples of 16.
template <typename... P>
__device__ inline bool aligned(const P*... p) {
    return (((u64) p | ...) & 15) == 0;
}

template <int WORDS>
__device__ inline void readWords(const void* p, unsigned (&w)[WORDS]) {
    static_assert(WORDS % 2 == 0, "pieces of 8 or 16 bytes");
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
        for (int k = 0; k < WORDS / 4; k++) {
            uint4 v = ((const uint4*) p)[k];
            w[4 * k] = v.x;
            w[4 * k + 1] = v.y;
            w[4 * k + 2] = v.z;
            w[4 * k + 3] = v.w;
        }
    } else {
#pragma unroll
        for (int k = 0; k < WORDS / 2; k++) {
            uint2 v = ((const uint2*) p)[k];
            w[2 * k] = v.x;
            w[2 * k + 1] = v.y;
        }
    }
}

template <int WORDS>
__device__ inline void writeWords(void* p, const unsigned (&w)[WORDS]) {
    static_assert(WORDS % 2 == 0, "pieces of 8 or 16 bytes");
    if constexpr (WORDS % 4 == 0) {
#pragma unroll
        for (int k = 0; k < WORDS / 4; k++) {
            ((uint4*) p)[k] = make_uint4(w[4 * k], w[4 * k + 1], w[4 * k + 2], w[4 * k + 3]);
        }
    } else {
#pragma unroll
        for (int k = 0; k < WORDS / 2; k++) {
            ((uint2*) p)[k] = make_uint2(w[2 * k], w[2 * k + 1]);
        }
    }
}

// x = row[i .. i + N), zeros beyond element n. wide: row is a multiple of 16; i is one of N.
template <int N>
__device__ inline void load(const float* row, i64 i, i64 n, bool wide, float (&x)[N]) {
    if (wide && i + N <= n) {
        unsigned w[N];
        readWords(row + i, w);
#pragma unroll
        for (int k = 0; k < N; k++) {
            x[k] = __uint_as_float(w[k]);
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) {
            x[k] = i + k < n ? row[i + k] : 0.0f;
        }
    }
}

template <int N>
__device__ inline void load(const bf16* row, i64 i, i64 n, bool wide, float (&x)[N]) {
    if (wide && i + N <= n) {
        unsigned w[N / 2];
        readWords(row + i, w);
#pragma unroll
        for (int k = 0; k < N; k++) {
            x[k] = __uint_as_float(k % 2 == 0 ? w[k / 2] << 16 : w[k / 2] & 0xffff0000u);
        }
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) {
            x[k] = i + k < n ? to_f32(row[i + k]) : 0.0f;
        }
    }
}

// row[i .. i + N) = x, nothing beyond element n.
template <int N>
__device__ inline void store(float* row, i64 i, i64 n, bool wide, const float (&x)[N]) {
    if (wide && i + N <= n) {
        unsigned w[N];
#pragma unroll
        for (int k = 0; k < N; k++) {
            w[k] = __float_as_uint(x[k]);
        }
        writeWords(row + i, w);
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) {
            if (i + k < n) {
                row[i + k] = x[k];
            }
        }
    }
}

template <int N>
__device__ inline void store(bf16* row, i64 i, i64 n, bool wide, const float (&x)[N]) {
    if (wide && i + N <= n) {
        unsigned w[N / 2];
#pragma unroll
        for (int k = 0; k < N / 2; k++) {
            w[k] = pack_bf16(x[2 * k], x[2 * k + 1]);
        }
        writeWords(row + i, w);
    } else {
#pragma unroll
        for (int k = 0; k < N; k++) {
            if (i + k < n) {
                row[i + k] = from_f32<bf16>(x[k]);
            }
        }
    }
}
