// float16 for products that do not round W: pairs of it, a table of pairs of weights, and bfloat16 brought to it exactly.
#pragma once
#include "codebook.cuh"
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

// What a thread of the first `threads` writes of the table: first it asks for the values. The gaps between rows stay free.
template <int threads> struct PairTable {
    static const int pieces = WARP * 4 / 16, each = 256 * pieces / threads;
    static_assert(threads % (16 * pieces) == 0, "a thread's lower codes are one");
    float lower, upper[each];

    __device__ __forceinline__ PairTable(const Codebook *codebook) {
        lower = codebook->value[threadIdx.x / pieces % 16];
#pragma unroll
        for (int k = 0; k < each; k++) {
            upper[k] = codebook->value[(threadIdx.x + k * threads) / pieces / 16];
        }
    }

    // A barrier must follow.
    __device__ __forceinline__ void write(unsigned char *table) const {
#pragma unroll
        for (int k = 0; k < each; k++) {
            unsigned int pair = pack_f16(upper[k], lower);
            *(uint4 *)(table + (threadIdx.x + k * threads) / pieces * ROW_BYTES + threadIdx.x % pieces * 16)
                    = make_uint4(pair, pair, pair, pair);
        }
    }
};

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
    unsigned int most = largest_pair(p);
    return max(most & 0xffff, most >> 16);
}

// A pair of bfloat16 times f, as float16.
__device__ __forceinline__ unsigned int to_f16(unsigned int pair, float f) {
    return pack_f16(low_half(pair) * f, high_half(pair) * f);
}

// c[16, 8] += a[16, 16]·b[16, 8] of float16, as mma of ptx.cuh.
__device__ __forceinline__ void mma_f16(float *c, const unsigned int *a, unsigned int b0, unsigned int b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
