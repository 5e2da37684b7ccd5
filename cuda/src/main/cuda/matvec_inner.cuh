// u [m, rank] = x [m, in] * A [rank, in]^T of a layer's adapters, in the kernel that has the product with W
// (nf4_matvec_two.cu): rows of A are cut into pieces, each a warp's somewhere in the grid; the sums go to memory, and at the
// end, after its own work, every block waits until all are there.
//
// No block waits for one that has not begun: there are at most as many as multiprocessors, and what a block has to give it
// gives before it waits.
#pragma once
#include "exact16.cuh"
#include "grid.cuh"
#include "matvec_input.cuh"
#include "matvec_results.cuh"

#define CACHE_LINE 128
// Columns of a piece are a multiple.
#define STEP (4 * WARP)

__device__ __forceinline__ int all_ranks(const Matrices &all) {
    return all.of[0].rank + all.of[1].rank + all.of[2].rank;
}

// A piece of a row of A.
struct Piece {
    const float *a;
    int from, to;

    __device__ __forceinline__ Piece(const Matrices &all, int item) {
        int row = item / all.pieces, piece = item - row * all.pieces, i = 0, steps = all.in / STEP;
        for (; row >= all.of[i].rank; i++) {
            row -= all.of[i].rank;
        }
        a = all.of[i].a + (long)row * all.in;
        from = piece * steps / all.pieces * STEP;
        to = (piece + 1) * steps / all.pieces * STEP;
    }
};

// A warp's first item, and how many there are from one of its items to the next.
__device__ __forceinline__ int first_item() {
    return blockIdx.x + threadIdx.x / WARP * gridDim.x;
}

// Asks for the block's rows of B, which are read last, and for its pieces of A.
__device__ __forceinline__ void prefetch_adapters(const Matrices &all, int tiles) {
    int lane = threadIdx.x % WARP;
#pragma unroll 1
    for (int item = first_item(); item < all_ranks(all) * all.pieces; item += WARPS * gridDim.x) {
        Piece p(all, item);
#pragma unroll 1
        for (int c = p.from + lane * (CACHE_LINE / 4); c < p.to; c += WARP * (CACHE_LINE / 4)) {
            prefetch(p.a + c);
        }
    }
#pragma unroll 1
    for (int i = threadIdx.x; i < tiles * TILE_ROWS; i += THREADS) {
        Tile tile = tile_of(all, i / TILE_ROWS);
        const Matrix4 &w = all.of[tile.matrix];
        int row = tile.row + i % TILE_ROWS;
#pragma unroll 1
        for (int e = 0; e < w.rank && row < w.out; e += CACHE_LINE / 4) {
            prefetch(w.b + (long)row * w.rank + e);
        }
    }
}

__device__ __forceinline__ float2 floats(unsigned int pair) {
    return __half22float2(*(const __half2 *)&pair);
}

// The block's parts of u, of x in shared memory; `ready` is 0.
__device__ __forceinline__ void inner_products(const Matrices &all, const unsigned char *copied, int x_bytes, int m,
        const float *factor, unsigned int *ready) {
    int lane = threadIdx.x % WARP, ranks = all_ranks(all);
#pragma unroll 1
    for (int item = first_item(); item < ranks * all.pieces; item += WARPS * gridDim.x) {
        Piece p(all, item);
#pragma unroll 1
        for (int i = 0; i < m; i++) {
            float acc = 0;
#pragma unroll 4
            for (int c = p.from + 4 * lane; c < p.to; c += STEP) {
                float4 w = __ldg((const float4 *)(p.a + c));
                uint2 v = *(const uint2 *)(copied + i * x_bytes + 16 * x_place(c / 8) + 2 * (c & 4));
                float2 v0 = floats(v.x), v1 = floats(v.y);
                acc = __fmaf_rn(w.x, v0.x, acc);
                acc = __fmaf_rn(w.y, v0.y, acc);
                acc = __fmaf_rn(w.z, v1.x, acc);
                acc = __fmaf_rn(w.w, v1.y, acc);
            }
            for (int o = WARP / 2; o > 0; o /= 2) {
                acc += __shfl_xor_sync(0xffffffff, acc, o);
            }
            if (lane == 0) {
                all.inner[(long)i * ranks * all.pieces + item] = acc * factor[i];
            }
        }
    }
    // The warp that is through last says so for the block.
    if (lane == 0) {
        __threadfence();
        if (atomicAdd(ready, 1) == WARPS - 1) {
            __threadfence();
            atomicAdd(all.arrived, 1);
        }
    }
}

// us [m, rank_place of all] = u in shared memory, from `inner` when all blocks have given their parts (the first block
// writes u, too), else from u. x, which may lie where us is, is no longer read. Barriers inside.
__device__ __forceinline__ void collect_inner(const Matrices &all, int m, float *us) {
    if (all.pieces > 0 && threadIdx.x == 0) {
        unsigned int arrived;
        do {
            asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(arrived) : "l"(all.arrived) : "memory");
        } while (arrived < gridDim.x);
    }
    __syncthreads();
    if (all.pieces > 0 && threadIdx.x == 0 && atomicAdd(all.arrived + 1, 1) == gridDim.x - 1) {
        all.arrived[0] = all.arrived[1] = 0;
    }
    int ranks = all_ranks(all), stride = rank_place(all, MOST_MATRICES);
#pragma unroll 1
    for (int i = threadIdx.x; i < m * ranks; i += THREADS) {
        int token = i / ranks, row = i - token * ranks, matrix = 0;
        for (; row >= all.of[matrix].rank; matrix++) {
            row -= all.of[matrix].rank;
        }
        float *u = all.of[matrix].u + (long)token * all.of[matrix].u_columns + row;
        float sum = 0;
        if (all.pieces == 0) {
            sum = *u;
        }
#pragma unroll 4
        for (int k = 0; k < all.pieces; k++) {
            sum += __ldcg(all.inner + (long)i * all.pieces + k);
        }
        us[token * stride + rank_place(all, matrix) + row] = sum;
        if (all.pieces > 0 && blockIdx.x == 0) {
            *u = sum;
        }
    }
    __syncthreads();
}
