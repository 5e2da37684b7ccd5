// What the products of a few rows with 4-bit matrices share (nf4_matvec.cu, nf4_matvec_wide.cu, nf4_matvec_two.cu): how work
// is divided, and how a tile's parts become results.
//
// A tile is 16 rows of W (the tensor cores' first operand); the rows of x are the 8 columns of the second. A block has
// `tiles_a_block` tiles that follow each other, and is alone on a multiprocessor. Its warps share the tiles' units of 256
// columns, each a run of them, so that a warp begins and ends within tiles: what it has of a tile is a part, and at the
// end a tile's parts are added in order. Nobody waits for anybody in between.
#pragma once
#include "codebook.cuh"
#include "matrices.cuh"
#include "ptx.cuh"
#include "numbers.cuh"
#include "tile.cuh"

#define TOKENS 8
#define WARPS 16
#define THREADS (WARPS * WARP)
// Threads that share the inner product of an adapter.
#define SHARE 8

// Which matrix a tile is of.
__device__ __forceinline__ int matrix_of(const Matrices &all, int tile) {
    return tile >= all.of[2].first_tile ? 2 : tile >= all.of[1].first_tile ? 1 : 0;
}

// A warp's part of tile j of its block. Warps and tiles advance together: their sum is a number of the part that no other
// has. Parts are [warps + tiles, m, rows].
__device__ __forceinline__ float *part_of(float *parts, int warp, int j, int m) {
    return parts + (warp + j) * m * TILE_ROWS;
}

// y = factor[token] * the sum of parts + scale * u * B^T + bias + residual, of all of the block's tiles; `share` units a warp,
// `a_tile` units a tile.
__device__ __forceinline__ void write_results(const Matrices &all, const float *parts, int first_tile, int tiles, int m,
        int a_tile, int share, const float *factor) {
    // Several threads have an output where there are adapters.
    int a_output = all.adapted ? SHARE : 1, outputs = tiles * TILE_ROWS * m;
    for (int i = threadIdx.x; i < (outputs * a_output + WARP - 1) / WARP * WARP; i += THREADS) {
        int output = min(i / a_output, outputs - 1), token = output / (tiles * TILE_ROWS);
        int r = output - token * tiles * TILE_ROWS, local = r / TILE_ROWS, k = i % a_output;
        const Matrix4 &w = all.of[matrix_of(all, first_tile + local)];
        int row = (first_tile + local - w.first_tile) * TILE_ROWS + r % TILE_ROWS;
        float inner = 0;
        if (row < w.out) {
            const float *b = w.b + (long)row * w.rank, *u = w.u + token * w.u_columns;
#pragma unroll 8
            for (int e = k; e < w.rank; e += SHARE) {
                inner = __fmaf_rn(b[e], u[e], inner);
            }
        }
        for (int o = a_output / 2; o > 0; o /= 2) {
            inner += __shfl_xor_sync(0xffffffff, inner, o);
        }
        if (k == 0 && row < w.out && i / a_output < outputs) {
            int from = local * a_tile / share, to = ((local + 1) * a_tile - 1) / share;
            float sum = 0;
            for (int p = from; p <= to; p++) {
                sum += parts[((p + local) * m + token) * TILE_ROWS + r % TILE_ROWS];
            }
            long at = (long)token * w.out + row;
            sum = __fmaf_rn(w.scale, inner, factor == nullptr ? sum : sum * factor[token]);
            sum += w.bias == nullptr ? 0 : to_f32(w.bias[row]);
            sum += w.residual == nullptr ? 0 : to_f32(w.residual[at]);
            w.y[at] = from_f32<bf16>(sum);
        }
    }
}
