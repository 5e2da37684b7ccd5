// Decoding 4-bit weights into the tensor cores' registers. A table in shared memory gives both values of a byte. It is
// there 16 times, one copy for each lane of a half-warp, so that lanes never meet in a bank: 32 KiB.
#pragma once
#include "codebook.cuh"
#include "numbers.cuh"

#define PAIR_COPIES 16
#define PAIR_TABLE_BYTES (256 * PAIR_COPIES * 8)

// All threads of a block, a multiple of 256, write the table; a barrier must follow.
__device__ inline void make_pair_table(const Codebook *codebook, float2 *table) {
    const int threads_a_row = 16 * PAIR_COPIES;
    float second = codebook->value[threadIdx.x % threads_a_row / PAIR_COPIES];
#pragma unroll
    for (int first = 0; first < 16; first++) {
        if (first % (blockDim.x / threads_a_row) == threadIdx.x / threads_a_row) {
            table[first * threads_a_row + threadIdx.x % threads_a_row] = make_float2(codebook->value[first], second);
        }
    }
}

// The two weights in byte `n` of a word, rounded to float32, then to bfloat16. `copy` is the offset of the lane's copy in
// a row of the table, pair_copy().
__device__ __forceinline__ unsigned int decode_pair(const float2 *table, unsigned int copy, unsigned int word, int n,
        float scale) {
    unsigned int row = n == 0 ? word << 7 : word >> (8 * n - 7), offset;
    asm("lop3.b32 %0, %1, 0x7f80, %2, 0xea;" : "=r"(offset) : "r"(row), "r"(copy));   // row & 0x7f80 | copy
    float2 v = *(const float2 *)((const char *)table + offset);
    return pack_bf16(v.x * scale, v.y * scale);
}

__device__ __forceinline__ unsigned int pair_copy() {
    return threadIdx.x % PAIR_COPIES * sizeof(float2);
}

// A block's constant as it is read ahead, before the second level is applied.
struct RawScale {
    unsigned int first;     // the bits of absmax, or a code
    float second;           // absmax2
};

__device__ inline RawScale load_scale(const Constants &c, long block) {
    if (c.absmax2 == nullptr) {
        return RawScale{((const unsigned int *)c.absmax)[block], 0};
    }
    return RawScale{((const unsigned char *)c.absmax)[block], c.absmax2[block >> LOG_NESTED_BLOCKSIZE]};
}

// `map`: c.map, or a copy of it.
__device__ inline float finish_scale(const Constants &c, const float *map, RawScale raw, float offset) {
    return c.absmax2 == nullptr ? __uint_as_float(raw.first) : __fadd_rn(__fmul_rn(map[raw.first], raw.second), offset);
}
