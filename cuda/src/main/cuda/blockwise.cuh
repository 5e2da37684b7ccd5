// What block-wise quantization to 4 and to 8 bits share. Results are bit-identical with the CPU's
// (qlora4j.blockwise.BlockwiseKernels; ScalarBlockwise is the reference): every operation is rounded on its own, subnormals
// are kept, divisions are exact. For kernels that are compiled with --fmad=false.
#pragma once
#include "codebook.cuh"
#include "numbers.cuh"

#define MAGNITUDE 0x7fffffff
#define INFINITE 0x7f800000
#define NOT_A_NUMBER 0x7fc00000

// Elements a thread holds.
#define PIECE 8

__device__ int largest_magnitude(const float *v) {
    int most = 0;
    for (int i = 0; i < PIECE; i++) {
        most = max(most, __float_as_int(v[i]) & MAGNITUDE);
    }
    return most;
}

__device__ float normalize(float x, float absmax, float reciprocal) {
    if (absmax == 0) {
        return 0;
    }
    return isinf(reciprocal) ? (float)((double)x / (double)absmax) : x * reciprocal;
}
