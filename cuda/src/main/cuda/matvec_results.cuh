// How the parts of nf4_matvec_two.cu become results, with what is added to them: bias, residual and adapters.
#pragma once
#include "nf4_matvec.cuh"
#include "sigmoid.cuh"

// Threads that share the inner product of an adapter, and inner products that a thread has under way.
#define LANES 16
#define BATCH 4

// A tile's matrix and its first row there.
struct Tile {
    const Matrix4 &w;
    int row;
};

// The block's tile `local`: tiles, or pairs of gate and up, go round the blocks.
__device__ __forceinline__ Tile tile_of(const Matrices &all, int local) {
    if (all.gated) {
        return {all.of[local % 2], (int)(local / 2 * gridDim.x + blockIdx.x) * TILE_ROWS};
    }
    int tile = local * gridDim.x + blockIdx.x;
    const Matrix4 &w = all.of[matrix_of(all, tile)];
    return {w, (tile - w.first_tile) * TILE_ROWS};
}

// Of a block's output i of [m, tiles, rows]: its token, tile and row in the tile.
struct Output {
    int token, local, r;

    __device__ __forceinline__ Output(int i, int tiles)
            : token(i / (tiles * TILE_ROWS)), local(i / TILE_ROWS - token * tiles), r(i % TILE_ROWS) {
    }
};

// added [m, tiles, rows] = residual + bias.
__device__ __forceinline__ void read_added(const Matrices &all, int tiles, int m, float *added) {
#pragma unroll 1
    for (int i = threadIdx.x; i < tiles * TILE_ROWS * m; i += THREADS) {
        Output o(i, tiles);
        Tile tile = tile_of(all, o.local);
        int row = tile.row + o.r;
        float v = 0;
        if (row < tile.w.out) {
            v += tile.w.bias == nullptr ? 0 : to_f32(tile.w.bias[row]);
            v += tile.w.residual == nullptr ? 0 : to_f32(tile.w.residual[(long)o.token * tile.w.out + row]);
        }
        added[i] = v;
    }
}

// Where u of a matrix begins in shared memory: a token has u of all matrices, each from a multiple of four on.
__device__ __forceinline__ int rank_place(const Matrices &all, int matrix) {
    int at = 0;
    for (int i = 0; i < matrix; i++) {
        at += all.of[i].rank + 3 & ~3;
    }
    return at;
}

// added += scale * u * B^T; `us` [m, rank_place of all]: u in shared memory. A barrier must be in front.
__device__ __forceinline__ void add_adapters(const Matrices &all, int tiles, int m, const float *us,
        float *added) {
    int outputs = tiles * TILE_ROWS * m, k = threadIdx.x % LANES, stride = rank_place(all, MOST_MATRICES);
    int most = max(all.of[0].rank, max(all.of[1].rank, all.of[2].rank));
#pragma unroll 1
    for (int first = threadIdx.x / LANES; first < outputs; first += THREADS / LANES * BATCH) {
        const float *b[BATCH], *u[BATCH];
        float inner[BATCH], scale[BATCH];
        int rank[BATCH];
        bool vector = true;
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            int i = first + j * (THREADS / LANES);
            Output o(min(i, outputs - 1), tiles);
            Tile tile = tile_of(all, o.local);
            const Matrix4 &w = tile.w;
            rank[j] = i < outputs && tile.row + o.r < w.out ? w.rank : 0;
            b[j] = w.b + (long)(tile.row + o.r) * w.rank;
            u[j] = us + o.token * stride + rank_place(all, (int)(&w - all.of));
            scale[j] = w.scale;
            inner[j] = 0;
            vector &= rank[j] % 4 == 0 && aligned(b[j], 16);
        }
        // All rows are asked for before one is used.
        int step = vector ? 4 : 1;
#pragma unroll 1
        for (int e = step * k; e < most; e += step * LANES) {
            float4 v[BATCH];
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                v[j] = make_float4(0, 0, 0, 0);
                if (e < rank[j]) {
                    if (vector) {
                        v[j] = __ldg((const float4 *)(b[j] + e));
                    } else {
                        v[j].x = __ldg(b[j] + e);
                    }
                }
            }
#pragma unroll
            for (int j = 0; j < BATCH; j++) {
                if (e < rank[j]) {
                    inner[j] = __fmaf_rn(v[j].x, u[j][e], inner[j]);
                    if (vector) {
                        inner[j] = __fmaf_rn(v[j].y, u[j][e + 1], inner[j]);
                        inner[j] = __fmaf_rn(v[j].z, u[j][e + 2], inner[j]);
                        inner[j] = __fmaf_rn(v[j].w, u[j][e + 3], inner[j]);
                    }
                }
            }
        }
#pragma unroll
        for (int j = 0; j < BATCH; j++) {
            for (int o = LANES / 2; o > 0; o /= 2) {
                inner[j] += __shfl_xor_sync(0xffffffff, inner[j], o);
            }
            int i = first + j * (THREADS / LANES);
            if (k == 0 && i < outputs) {
                added[i] = __fmaf_rn(scale[j], inner[j], added[i]);
            }
        }
    }
}

// y = factor[token] * the sum of parts + added, of all of the block's tiles; `share` units a warp, `a_tile` units a tile.
// A barrier must be in front.
__device__ __forceinline__ void write_gated(const Matrices &all, float *parts, const float *added, int tiles, int m,
        int a_tile, int share, const float *factor) {
    auto result = [&](int local, int token, int r) {
        int from = local * a_tile / share, to = ((local + 1) * a_tile - 1) / share;
        float sum = 0;
#pragma unroll 1
        for (int p = from; p <= to; p++) {
            sum += part_of(parts, p, local, m)[token * TILE_ROWS + r];
        }
        return from_f32<bf16>(sum * factor[token] + added[(token * tiles + local) * TILE_ROWS + r]);
    };
    int a_result = all.gated ? 2 : 1, results = tiles / a_result;
#pragma unroll 1
    for (int i = threadIdx.x; i < results * TILE_ROWS * m; i += THREADS) {
        Output o(i, results);
        Tile tile = tile_of(all, o.local * a_result);
        int row = tile.row + o.r;
        if (row < tile.w.out) {
            bf16 v = result(o.local * a_result, o.token, o.r);
            if (all.gated) {
                // As swiglu.cu rounds.
                float up = to_f32(result(o.local * 2 + 1, o.token, o.r));
                float gate = to_f32(v);
                v = from_f32<bf16>(rounded<bf16>(gate * sigmoid(gate)) * up);
            }
            tile.w.y[(long)o.token * tile.w.out + row] = v;
        }
    }
}
