// float16 for products that do not round W: pairs of it, and bfloat16 brought to it exactly.
#pragma once
#include "types.cuh"

__device__ __forceinline__ unsigned int pack_f16(float lower, float upper) {
    unsigned int pair;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
    return pair;
}

// A power of two by its biased exponent.
__device__ __forceinline__ float power(int exponent) {
    return __uint_as_float(exponent << 23);
}

// x is brought to float16 exactly: times a power of two a token that puts its largest element below 2^15. Elements 2^28
// times smaller lose bits, 2^-39 of the largest. The power's exponent, by the bits of the largest magnitude in bfloat16:
// that of 1 where it is no number.
__device__ __forceinline__ int x_exponent(unsigned int largest) {
    int e = largest >> 7;
    return e == 255 ? 127 : min(127 + 14 + 127 - e, 253);
}

// The largest magnitude of eight elements, in bits.
__device__ __forceinline__ unsigned int largest_of(uint4 p) {
    unsigned int most = p.x & 0x7fff7fff;
    asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(p.y & 0x7fff7fff));
    asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(p.z & 0x7fff7fff));
    asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(p.w & 0x7fff7fff));
    return max(most & 0xffff, most >> 16);
}

// A pair of bfloat16 times f, as float16.
__device__ __forceinline__ unsigned int to_f16(unsigned int pair, float f) {
    return pack_f16(__uint_as_float(pair << 16) * f, __uint_as_float(pair & 0xffff0000u) * f);
}
