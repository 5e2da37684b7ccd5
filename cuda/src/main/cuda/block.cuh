// Sums and maxima over a block, always in the same order: a run repeats bit for bit.
#pragma once
#include "types.cuh"

constexpr float LOWEST = __builtin_bit_cast(float, 0xff800000);

struct Plus {
    template <typename T>
    __device__ static T of(T a, T b) {
        return a + b;
    }
};

struct Largest {
    __device__ static float of(float a, float b) {
        return fmaxf(a, b);
    }
};

// x of all threads combined, given to all of them. shared: 32 elements, free again after the call; blockDim.x is a
// multiple of 32.
template <typename Operation, typename T>
__device__ inline T overBlock(T x, T* shared) {
#pragma unroll
    for (int distance = WARP / 2; distance > 0; distance /= 2) {
        x = Operation::of(x, __shfl_xor_sync(~0u, x, distance));
    }
    int warps = blockDim.x / WARP;
    if (threadIdx.x % WARP == 0) {
        shared[threadIdx.x / WARP] = x;
    }
    __syncthreads();
    x = shared[0];
    for (int w = 1; w < warps; w++) {
        x = Operation::of(x, shared[w]);
    }
    __syncthreads();
    return x;
}

template <typename T>
__device__ inline T blockSum(T x, T* shared) {
    return overBlock<Plus>(x, shared);
}
