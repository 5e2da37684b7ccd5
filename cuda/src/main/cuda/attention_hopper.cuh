// What the attention kernels for compute capability 9.0a share: tiles and their products by warpgroups (wgmma), rings of tiles,
// and how blocks share out the work (Shah et al. 2024, FlashAttention-3).
//
// A block is three warpgroups. The first copies tiles into rings in shared memory with cp.async; the other two hold 64 rows
// each: queries in the forward and for dq, keys for dk and dv. Full and empty slots are told by mbarriers. Scores come
// out of one product in the registers in which the next one takes its left operand, so nothing but tiles is in shared memory.
#pragma once
#include "attention.cuh"
#include "hopper.cuh"

#define THREADS 384
#define ROWS 128
#define COPIER_REGISTERS 40
#define REGISTERS 232
#define BARRIER_BYTES 512 // of shared memory, for all mbarriers

// Named barriers; 0 is __syncthreads.
#define TURN 1 // and 2: a warpgroup's turn to issue products
#define COPIERS 3

// ---- tiles: D / 64 panels of [rows][64] in wgmma's 128-byte swizzle ----

template <int TILE_ROWS>
__device__ __forceinline__ u32 panel_offset(int row, int chunk) {
    return chunk / 8 * (TILE_ROWS * 128) + row * 128 + ((chunk % 8 ^ row % 8) << 4);
}

// Copies `rows` rows of one head to a tile; zeros beyond them and beyond d. Called by one warpgroup.
template <int TILE_ROWS, int D>
__device__ __forceinline__ void copy_panels(u32 tile, const bf16* from, long long stride, int rows, int d) {
    constexpr int CHUNKS = D / 8, LINES = 128 / CHUNKS;
    int thread = threadIdx.x % 128, chunk = thread % CHUNKS, row = thread / CHUNKS;
    tile += panel_offset<TILE_ROWS>(row, chunk);
    from += row * stride + chunk * 8;
    rows = chunk * 8 < d ? rows - row : 0;
    stride *= LINES;
#pragma unroll 4
    for (int i = 0; i < TILE_ROWS; i += LINES, from += stride) {
        copy16(tile + i * 128, from, i < rows);
    }
}

// s[64, N] = A·Bᵀ over D columns, of the rows of A from `row` of a tile of ROWS; begins it.
template <int D, int N>
__device__ __forceinline__ void begin_scores(float (&s)[N / 2], u32 a, int row, u32 b) {
    u32 left = matrix(fresh(a + row * 128)), right = matrix(b);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        wgmma(s, descriptor(left + k / 4 * (ROWS * 8) + k % 4 * 2), descriptor(right + k / 4 * (N * 8) + k % 4 * 2), k > 0);
    }
    wgmma_commit();
}

// sums[64, D] += P[64, N]·B[N, D]; P packed; begins it.
template <int D, int N>
__device__ __forceinline__ void begin_product(float (&sums)[D / 2], const u32 (&p)[N / 4], u32 b) {
    u32 right = matrix(b, N * 128);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        wgmma(sums, p[4 * k], p[4 * k + 1], p[4 * k + 2], p[4 * k + 3], descriptor(right + k * 128));
    }
    wgmma_commit();
}

// Accumulators to the packed left operand of the next product.
template <int N>
__device__ __forceinline__ void pack_all(u32 (&p)[N / 4], const float (&s)[N / 2]) {
#pragma unroll
    for (int i = 0; i < N / 4; i++) {
        p[i] = pack_bf16(s[2 * i], s[2 * i + 1]);
    }
}

// Writes a warpgroup's 64 rows from `row` of sums·(factor of the lane's two rows), by way of the same rows of a tile.
template <int D>
__device__ __forceinline__ void store_rows(bf16* to, long long stride, int rows, int d, const float (&sums)[D / 2],
                                           float factor0, float factor1, char* tile, int row) {
    int lane = threadIdx.x % 32;
    row += threadIdx.x / 32 % 4 * 16;
#pragma unroll
    for (int n = 0; n < D / 8; n++) {
        u32 low = pack_bf16(sums[4 * n] * factor0, sums[4 * n + 1] * factor0);
        u32 high = pack_bf16(sums[4 * n + 2] * factor1, sums[4 * n + 3] * factor1);
        *(u32*) (tile + panel_offset<ROWS>(row + lane / 4, n) + lane % 4 * 4) = low;
        *(u32*) (tile + panel_offset<ROWS>(row + lane / 4 + 8, n) + lane % 4 * 4) = high;
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < D / 16; i++) {
        int at = lane + i * 32, r = row + at / (D / 8), c = at % (D / 8);
        if (r < rows && c * 8 < d) {
            *(uint4*) (to + r * stride + c * 8) = *(const uint4*) (tile + panel_offset<ROWS>(r, c));
        }
    }
    __syncwarp();
}

// One arrival of each warp of the two working warpgroups.
__device__ __forceinline__ void release(u32 barrier) {
    if (threadIdx.x % 32 == 0) {
        barrier_arrive(barrier);
    }
}

__device__ __forceinline__ void await(u32 barrier, int parity) {
    barrier_wait(barrier, parity);
    fence_async();
}

// Hands out tiles one by one, so that no block is left alone with a long one. Tiles are numbered; the first goes by the
// block's number, the others by a counter in global memory, which the last block to end sets back to zero.
struct Dealer {
    static constexpr int FULL = 0, EMPTY = 16, NUMBER = 32, BYTES = 48; // two slots, and one for the copiers alone
    u32 base;
    volatile int* numbers;
    u32* counters; // [2], zero
    int tiles;
    Ring<2> ring;

    __device__ __forceinline__ Dealer(char* shared, u32 at, u32* counters, int tiles)
        : base(shared_address(shared) + at), numbers((volatile int*) (shared + at + NUMBER)), counters(counters), tiles(tiles) {
    }
    __device__ __forceinline__ void init() {
        for (int i = 0; i < 2; i++) {
            barrier_init(base + FULL + 8 * i, 1);
            barrier_init(base + EMPTY + 8 * i, 8);
        }
    }
    // For the copiers: tells the others the tile's number; false when there is none.
    __device__ __forceinline__ bool tell(int tile) {
        if (threadIdx.x == 0) {
            barrier_wait(base + EMPTY + 8 * ring.slot, ring.parity ^ 1);
            numbers[ring.slot] = tile;
            barrier_arrive(base + FULL + 8 * ring.slot);
            if (tile >= tiles && atomicAdd(counters + 1, 1) == gridDim.x - 1) {
                counters[0] = counters[1] = 0;
            }
        }
        ring.next();
        return tile < tiles;
    }
    // For the copiers, when all copies of a tile are under way: later than that a tile taken would not wait for this one.
    __device__ __forceinline__ int next() {
        if (threadIdx.x == 0) {
            numbers[2] = gridDim.x + atomicAdd(counters, 1);
        }
        sync_threads(COPIERS, 128);
        int tile = numbers[2];
        sync_threads(COPIERS, 128);
        return tile;
    }
    // For the others: the next tile's number, at least `tiles` when there is none.
    __device__ __forceinline__ int hear() {
        barrier_wait(base + FULL + 8 * ring.slot, ring.parity);
        int tile = numbers[ring.slot];
        release(base + EMPTY + 8 * ring.slot);
        ring.next();
        return tile;
    }
};
