// float16 for products that do not round W: pairs of it, a table of pairs of weights, and bfloat16 brought to it exactly.
#pragma once
#include "ptx.cuh"

// The values of a byte's two codes as float16, a copy for each lane. A byte's copies begin 256 bytes behind those of the one
// before, so that one instruction puts a lane's address together from the byte and the lane's.
#define ROW_BYTES 256
#define TABLE_BYTES (256 * ROW_BYTES)

// The weights of byte `n` of a word; `own` is the offset of the lane's copy, 4 * lane.
__device__ __forceinline__ unsigned int decode(const unsigned char *table, unsigned int own, unsigned int word, int n) {
    return *(const unsigned int *)(table + __byte_perm(own, word, 0x3300 | 4 + n << 4));
}

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
    return pack_f16(low_half(pair) * f, high_half(pair) * f);
}
