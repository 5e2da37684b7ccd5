// How the parts of nf4_matvec_two.cu become results, with what is added to them: bias, residual and adapters.
#pragma once
#include "nf4_matvec.cuh"
#include "sigmoid.cuh"

// Threads that share the inner product of an adapter, and inner products that a thread has under way.
#define LANES 16
#define BATCH 4

// a / b for 0 <= a < 2^20: half a unit is more than the quotient is off by.
__device__ __forceinline__ int quotient(int a, int b) {
    return (int)__fdividef(a + 0.5f, (float)b);
}

// A tile's matrix and its first row there. The matrix by its index: a reference would be read through generic addresses, which
// takes as long as a read of global memory.
struct Tile {
    int matrix, row;
};

// The block's tile `local`: tiles, or pairs of gate and up, go round the blocks.
__device__ __forceinline__ Tile tile_of(const Matrices &all, int local) {
    if (all.gated) {
        return {local & 1, (int)((local >> 1) * gridDim.x + blockIdx.x) * TILE_ROWS};
    }
    int tile = local * gridDim.x + blockIdx.x, matrix = matrix_of(all, tile);
    return {matrix, (tile - all.of[matrix].first_tile) * TILE_ROWS};
}

// Of a block's output i of [m, tiles, rows]: its token, tile and row in the tile.
struct Output {
    int token, local, r;

    __device__ __forceinline__ Output(int i, int tiles)
            : token(quotient(i, tiles * TILE_ROWS)), local(i / TILE_ROWS - token * tiles), r(i % TILE_ROWS) {
    }
};

// Where u of a matrix begins in shared memory: a token has u of all matrices, each from a multiple of four on.
__device__ __forceinline__ int rank_place(const Matrices &all, int matrix) {
    int at = 0;
    for (int i = 0; i < matrix; i++) {
        at += all.of[i].rank + 3 & ~3;
    }
    return at;
}

// added [m, tiles, rows] = scale * u * B^T; `us` [m, rank_place of all]: u in shared memory. A barrier must be in front.
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
            const Matrix4 &w = all.of[tile.matrix];
            rank[j] = i < outputs && tile.row + o.r < w.out ? w.rank : 0;
            b[j] = w.b + (long)(tile.row + o.r) * w.rank;
            u[j] = us + o.token * stride + rank_place(all, tile.matrix);
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
                added[i] = scale[j] * inner[j];
            }
        }
    }
}

// A thread's result, an element of y [m, rows] of the block's tiles, or pairs of them: the host sees to it that there are not more
// than threads. Where it goes, and what is added to it, is asked for before the products are summed.
struct Result {
    bf16 *y = nullptr;
    int local, token, r;
    bf16 bias[2], residual[2];

    __device__ __forceinline__ Result(const Matrices &all, int tiles, int m) {
        int results = tiles >> all.gated;
        if (threadIdx.x < results * TILE_ROWS * m) {
            Output o(threadIdx.x, results);
            local = o.local << all.gated, token = o.token, r = o.r;
            Tile tile = tile_of(all, local);
            int row = tile.row + r, out = all.of[tile.matrix].out;
            if (row < out) {
                y = all.of[tile.matrix].y + (long)token * out + row;
#pragma unroll
                for (int k = 0; k < 2; k++) {
                    bias[k] = residual[k] = from_f32<bf16>(0);
                    if (k <= all.gated) {
                        const Matrix4 &w = all.of[tile.matrix + k];
                        if (w.bias != nullptr) {
                            bias[k] = w.bias[row];
                        }
                        if (w.residual != nullptr) {
                            residual[k] = w.residual[(long)token * out + row];
                        }
                    }
                }
            }
        }
    }

    // y = factor[token] * the sum of parts + residual + bias + added; `share` units a warp, `a_tile` units a tile. A barrier must
    // be in front.
    __device__ __forceinline__ void write(const Matrices &all, const float *parts, const float *added, int tiles, int m,
            int a_tile, int share, const float *factor) const {
        if (y == nullptr) {
            return;
        }
        float gate = 0, v = 0;
#pragma unroll 1
        for (int k = 0; k <= all.gated; k++) {
            int tile = local + k, from = quotient(tile * a_tile, share), to = quotient((tile + 1) * a_tile - 1, share);
            const float *part = parts + ((from + tile) * m + token) * TILE_ROWS + r;
            float sum = 0;
#pragma unroll 1
            for (int p = from; p <= to; p += 4) {
                // Four at a time.
                float four[4];
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    four[q] = p + q <= to ? part[q * m * TILE_ROWS] : 0;
                }
#pragma unroll
                for (int q = 0; q < 4; q++) {
                    sum += four[q];
                }
                part += 4 * m * TILE_ROWS;
            }
            sum = __fmaf_rn(sum, factor[token], k == 0 ? to_f32(bias[0]) + to_f32(residual[0])
                    : to_f32(bias[1]) + to_f32(residual[1]));
            if (all.adapted) {
                sum += added[(token * tiles + tile) * TILE_ROWS + r];
            }
            gate = v;
            v = rounded<bf16>(sum);
        }
        // As swiglu.cu rounds.
        *y = from_f32<bf16>(all.gated ? rounded<bf16>(gate * sigmoid(gate)) * v : v);
    }
};
