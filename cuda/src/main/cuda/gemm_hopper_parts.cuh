// While a launch of gemm_hopper.cu multiplies: weights of the next one, dequantized as by dequantize4.cu, by warps that
// have nothing else to do.
#pragma once
#include "gemm_hopper.cuh"

#define PART_WARPS 3
#define PIECE 8
#define UNROLL 4 // pieces of a lane under way at once

// Element j of a piece; `values` is the address of the codebook's in shared memory, a multiple of 64.
__device__ __forceinline__ float element(u32 word, int j, u32 values) {
    int shift = j % 2 == 0 ? 4 * j + 2 : 4 * j - 6;
    u32 at;
    float v;
    asm("lop3.b32 %0, %1, 0x3c, %2, 0xea;" : "=r"(at) : "r"(shift < 0 ? word << -shift : word >> shift), "r"(values));
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v) : "r"(at));
    return v;
}

__device__ __forceinline__ void dequantize_parts(const Work& w, u32 base) {
    u32 values = base + At::VALUES, map = base + At::MAP;
    int thread = threadIdx.x - WARP;
    if (w.dequantized == 0) {
        return;
    }
    for (int i = thread; i < 16 + 256; i += PART_WARPS * WARP) {
        float v = i < 16 ? w.codebook->value[i] : w.map[i - 16];
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(values + i * 4), "f"(v) : "memory");
    }
    sync_threads(3, PART_WARPS * WARP);
    u32 step = gridDim.x * PART_WARPS * WARP * UNROLL;
    u32 begin = (blockIdx.x * PART_WARPS + thread / WARP) * WARP * UNROLL + thread % WARP;
    for (int i = 0; i < w.dequantized; i++) {
        const Part& part = w.parts[i];
        float offset = *part.offset;
        for (u32 piece = part.first + begin; piece < part.last; piece += step) {
            u32 words[UNROLL], codes[UNROLL];
            float scales[UNROLL];
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                u32 p = min(piece + u * WARP, part.last - 1), block = p >> w.log_blocksize - 3;
                words[u] = __ldcs(part.packed + p);
                codes[u] = part.absmax[block];
                scales[u] = part.absmax2[block >> LOG_NESTED_BLOCKSIZE];
            }
#pragma unroll
            for (int u = 0; u < UNROLL; u++) {
                float scale;
                asm volatile("ld.shared.f32 %0, [%1];" : "=f"(scale) : "r"(map + codes[u] * 4));
                scale = __fadd_rn(__fmul_rn(scale, scales[u]), offset);
                u32 v[PIECE / 2];
#pragma unroll
                for (int j = 0; j < PIECE; j += 2) {
                    v[j / 2] = pack_bf16(element(words[u], j, values) * scale, element(words[u], j + 1, values) * scale);
                }
                if (piece + u * WARP < part.last) {
                    ((uint4 *) part.out)[piece + u * WARP] = make_uint4(v[0], v[1], v[2], v[3]);
                }
            }
        }
    }
}
