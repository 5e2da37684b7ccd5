// Runs of eight elements in memory, converted from and to floats.
#pragma once
#include "types.cuh"

__device__ __forceinline__ bool aligned(const void *p, int bytes) {
    return ((unsigned long long)p & (bytes - 1)) == 0;
}

// Sixteen bytes as the elements of type T that they are.
template <class T> union Packed {
    uint4 words;
    T elements[16 / sizeof(T)];
    __device__ Packed() {
    }
};

// Eight consecutive elements as floats; p is aligned to 16 bytes.
template <class T> __device__ __forceinline__ void load8(const T *p, float *v) {
    const int n = 16 / sizeof(T);
#pragma unroll
    for (int i = 0; i < 8 / n; i++) {
        Packed<T> packed;
        packed.words = ((const uint4 *)p)[i];
#pragma unroll
        for (int j = 0; j < n; j++) {
            v[i * n + j] = to_f32(packed.elements[j]);
        }
    }
}

// Eight floats, each rounded, to consecutive elements; p is aligned to 16 bytes.
template <class T> __device__ __forceinline__ void store8(T *p, const float *v) {
    const int n = 16 / sizeof(T);
#pragma unroll
    for (int i = 0; i < 8 / n; i++) {
        Packed<T> packed;
#pragma unroll
        for (int j = 0; j < n; j++) {
            packed.elements[j] = from_f32<T>(v[i * n + j]);
        }
        ((uint4 *)p)[i] = packed.words;
    }
}
