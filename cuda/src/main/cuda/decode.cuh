// Decoding 4-bit weights into the tensor cores' registers. A table in shared memory gives both values of a byte. It is
// there 16 times, one copy for each lane of a half-warp, so that lanes never meet in a bank: 32 KiB.
#pragma once
#include "codebook.cuh"
#include "numbers.cuh"

#define PAIR_COPIES 16
#define PAIR_TABLE_BYTES (256 * PAIR_COPIES * 8)

// All threads of a block write the table; a barrier must follow.
__device__ inline void make_pair_table(const Codebook *codebook, float2 *table) {
    for (int i = threadIdx.x; i < 256 * PAIR_COPIES; i += blockDim.x) {
        int byte = i / PAIR_COPIES;
        table[i] = make_float2(codebook->value[byte >> 4], codebook->value[byte & 15]);
    }
}

// The two weights in byte `n` of a word, rounded to float32, then to bfloat16. `copy` is the lane's copy of the table.
__device__ inline unsigned int decode_pair(const float2 *copy, unsigned int word, int n, float scale) {
    unsigned int offset = n == 0 ? word << 7 : word >> (8 * n - 7);
    float2 v = *(const float2 *)((const char *)copy + (offset & 0x7f80));
    return pack_bf16(v.x * scale, v.y * scale);
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

__device__ inline float finish_scale(const Constants &c, RawScale raw, float offset) {
    if (c.absmax2 == nullptr) {
        return __uint_as_float(raw.first);
    }
    return __fadd_rn(__fmul_rn(__ldg(c.map + raw.first), raw.second), offset);
}
