// Tiles of bfloat16 rows in shared memory and their products on tensor cores, a warp with 16 rows.
//
// A tile has D columns, a multiple of 64. The 16-byte chunks of a row are permuted by the row's last three bits, so that
// the eight rows that one ldmatrix reads lie in different banks.
#pragma once
#include "attention.cuh"

template <int D>
__device__ __forceinline__ u32 tile_offset(int row, int chunk) {
    return row * (D * 2) + ((chunk ^ (row & 7)) << 4);
}

// Copies `rows` rows of one head, `d` elements each, to a tile of ROWS x D; zeros beyond. `from` is the first row's head.
template <int ROWS, int D, int THREADS>
__device__ __forceinline__ void copy_tile(u32 tile, const bf16* from, long long stride, int rows, int d) {
#pragma unroll
    for (int i = 0; i < ROWS * D / 8 / THREADS; i++) {
        int at = threadIdx.x + i * THREADS;
        int row = at / (D / 8), chunk = at % (D / 8);
        bool valid = row < rows && chunk * 8 < d;
        copy16(tile + tile_offset<D>(row, chunk), valid ? from + row * stride + chunk * 8 : from, valid);
    }
}

// s[16, N] = A[16, D]·B[N, D]ᵀ; A's first row is `row` of tile a.
template <int D, int N>
__device__ __forceinline__ void product_transposed(float (&s)[N / 8][4], u32 a, int row, u32 b) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < N / 8; n++) {
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
    }
#pragma unroll
    for (int k = 0; k < D / 16; k++) {
        u32 x[4];
        load_matrices(x, a + tile_offset<D>(row + lane % 16, 2 * k + lane / 16));
#pragma unroll
        for (int n = 0; n < N / 16; n++) {
            u32 y[4];
            load_matrices(y, b + tile_offset<D>(n * 16 + lane % 8 + lane / 16 * 8, 2 * k + lane / 8 % 2));
            mma(s[2 * n], x, y[0], y[1]);
            mma(s[2 * n + 1], x, y[2], y[3]);
        }
    }
}

// acc[16, COLUMNS] += P[16, N]·B[N, D], of B the columns from 8·chunk; P is rounded to bfloat16.
template <int D, int N, int COLUMNS>
__device__ __forceinline__ void product(float (&acc)[COLUMNS / 8][4], const float (&p)[N / 8][4], u32 b, int chunk) {
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int k = 0; k < N / 16; k++) {
        u32 x[4] = {pack_bf16(p[2 * k][0], p[2 * k][1]), pack_bf16(p[2 * k][2], p[2 * k][3]),
                    pack_bf16(p[2 * k + 1][0], p[2 * k + 1][1]), pack_bf16(p[2 * k + 1][2], p[2 * k + 1][3])};
#pragma unroll
        for (int n = 0; n < COLUMNS / 16; n++) {
            u32 y[4];
            load_matrices_transposed(y, b + tile_offset<D>(k * 16 + lane % 16, chunk + 2 * n + lane / 16));
            mma(acc[2 * n], x, y[0], y[1]);
            mma(acc[2 * n + 1], x, y[2], y[3]);
        }
    }
}

// Writes a warp's 16 rows of acc·(factor of the lane's two rows) to one head of `rows` rows of `to`, the columns from
// 8·chunk, by way of the rows `row` of a tile that the warp alone uses.
template <int D, int COLUMNS>
__device__ __forceinline__ void store_rows(bf16* to, long long stride, int rows, int d, const float (&acc)[COLUMNS / 8][4],
                                           float factor0, float factor1, char* tile, int row, int chunk) {
    int lane = threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < COLUMNS / 8; n++) {
        int r = row + lane / 4;
        *(u32*) (tile + tile_offset<D>(r, n) + lane % 4 * 4) = pack_bf16(acc[n][0] * factor0, acc[n][1] * factor0);
        *(u32*) (tile + tile_offset<D>(r + 8, n) + lane % 4 * 4) = pack_bf16(acc[n][2] * factor1, acc[n][3] * factor1);
    }
    __syncwarp();
#pragma unroll
    for (int i = 0; i < COLUMNS / 16; i++) {
        int at = lane + i * 32;
        int r = at / (COLUMNS / 8), c = at % (COLUMNS / 8);
        if (row + r < rows && (chunk + c) * 8 < d) {
            *(uint4*) (to + (row + r) * stride + (chunk + c) * 8) = *(const uint4*) (tile + tile_offset<D>(row + r, c));
        }
    }
    __syncwarp();
}
