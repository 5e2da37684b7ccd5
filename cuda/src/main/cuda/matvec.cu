// Products of a few rows with a matrix that is read once (decoding): y [m, out] = x [m, in] * W [out, in]^T, m <= 8.
// 4-bit matrices in bfloat16 are nf4_matvec.cu's.
//
//   nf4_matvec_f32    W in 4 bits, all in float32
//   matvec_bf16       W dense bfloat16, y bfloat16 or float32: y = alpha * x * W^T, or added; `in` a multiple of 8
//   matvec_f32        all in float32
//
// The limit is reading W. In the bfloat16 kernel, a tile is 16 rows of W (the tensor cores' first operand); the rows of
// x are the 8 columns of the second. The warps of a block share the columns of a tile's rows, so that enough reads are
// under way; their sums are added in their order. A block takes every gridDim.x-th tile and reads ahead.
#include "grid.cuh"
#include "codebook.cuh"
#include "ptx.cuh"
#include "numbers.cuh"

#define TILE_ROWS 16
#define TOKENS 8

// The warps' parts of a tile, added in order; two of them, used alternately, so that one barrier a tile is enough.
struct Sums {
    float part[2][8][TILE_ROWS][TOKENS];
};

// Adds the warps' sums of a tile and calls write(row in the tile, token, sum).
template <class Write>
__device__ void reduce(Sums &sums, int parity, const float *acc, Write write) {
    int warp = threadIdx.x / WARP, lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    float(*own)[TOKENS] = sums.part[parity][warp];
    own[g][2 * t] = acc[0];
    own[g][2 * t + 1] = acc[1];
    own[g + 8][2 * t] = acc[2];
    own[g + 8][2 * t + 1] = acc[3];
    __syncthreads();
    for (int i = threadIdx.x; i < TILE_ROWS * TOKENS; i += blockDim.x) {
        // Neighbouring threads write neighbouring outputs.
        int row = i % TILE_ROWS, token = i / TILE_ROWS;
        float sum = 0;
        for (int w = 0; w < blockDim.x / WARP; w++) {
            sum += sums.part[parity][w][row][token];
        }
        write(row, token, sum);
    }
}

// Where a warp is in its share of the work: pieces of a tile `warp`, `warp` + warps ... up to `pieces`, then those of
// the block's next tile.
struct Position {
    int tile, piece;

    __device__ Position() : tile(blockIdx.x), piece(threadIdx.x / WARP) {
    }

    __device__ Position(int tile, int piece) : tile(tile), piece(piece) {
    }

    __device__ void step(int pieces) {
        piece += blockDim.x / WARP;
        if (piece >= pieces) {
            piece = threadIdx.x / WARP;
            tile += gridDim.x;
        }
    }
};

// Stretches of dense weights: 32 columns. A lane has 8 elements of row g and of row g + 8, from column 8 t on.
#define DENSE_STRETCH 32
#define DENSE_READ_AHEAD 4

struct Weights {
    uint4 words[2];
};

__device__ void load_weights(Weights &weights, const bf16 *w, int out, int in, int tiles, Position p) {
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, column = p.piece * DENSE_STRETCH + 8 * t;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = min(p.tile * TILE_ROWS + g + 8 * h, out - 1);
        bool there = column < in && p.tile < tiles;
        weights.words[h] = there ? load_once(w + (long)row * in + column) : make_uint4(0, 0, 0, 0);
    }
}

extern "C" __global__ void __launch_bounds__(256, 3) matvec_bf16(const bf16 *x, int m, const bf16 *w, int out, int in,
        float alpha, int accumulate, int y_is_float, void *y) {
    next_may_begin();
    previous_has_ended();
    __shared__ Sums sums;
    int lane = threadIdx.x % WARP, warps = blockDim.x / WARP, g = lane / 4, t = lane % 4;
    int tiles = (out + TILE_ROWS - 1) / TILE_ROWS, stretches = (in + DENSE_STRETCH - 1) / DENSE_STRETCH;
    int steps = (stretches + DENSE_READ_AHEAD * warps - 1) / (DENSE_READ_AHEAD * warps) * DENSE_READ_AHEAD;
    Position ahead;
    Weights weights[DENSE_READ_AHEAD];
#pragma unroll
    for (int u = 0; u < DENSE_READ_AHEAD; u++) {
        load_weights(weights[u], w, out, in, tiles, ahead);
        ahead.step(steps * warps);
    }
    int parity = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, parity ^= 1) {
        float acc[4] = {0, 0, 0, 0};
        int column = threadIdx.x / WARP * DENSE_STRETCH + 8 * t;
        for (int step = 0; step < steps; step += DENSE_READ_AHEAD) {
#pragma unroll
            for (int u = 0; u < DENSE_READ_AHEAD; u++) {
                uint4 p = weights[u].words[0], q = weights[u].words[1];
                load_weights(weights[u], w, out, in, tiles, ahead);
                ahead.step(steps * warps);
                bool there = g < m && column < in;
                uint4 b = there ? __ldg((const uint4 *)(x + (long)g * in + column)) : make_uint4(0, 0, 0, 0);
                column += warps * DENSE_STRETCH;
                unsigned int a[4] = {p.x, q.x, p.y, q.y};
                mma(acc, a, b.x, b.y);
                unsigned int d[4] = {p.z, q.z, p.w, q.w};
                mma(acc, d, b.z, b.w);
            }
        }
        reduce(sums, parity, acc, [&](int r, int token, float sum) {
            int row = tile * TILE_ROWS + r;
            if (row < out && token < m) {
                long at = (long)token * out + row;
                sum *= alpha;
                if (y_is_float) {
                    ((float *)y)[at] = accumulate ? ((float *)y)[at] + sum : sum;
                } else {
                    bf16 *y16 = (bf16 *)y;
                    y16[at] = from_f32<bf16>(accumulate ? to_f32(y16[at]) + sum : sum);
                }
            }
        });
    }
}

// Adds the lanes' values, halves to halves.
__device__ float warp_sum(float v) {
    for (int o = WARP / 2; o > 0; o /= 2) {
        v += __shfl_xor_sync(0xffffffff, v, o);
    }
    return v;
}

// A warp has a row of W; a lane has 8 columns of every 256.
extern "C" __global__ void __launch_bounds__(256) nf4_matvec_f32(const float *x, int m, const unsigned char *packed,
        const void *absmax, const float *absmax2, const float *offset, const float *map, int log_blocksize,
        const Codebook *codebook, int out, int in, const float *residual, const float *bias, float *y) {
    __shared__ float value[16];
    if (threadIdx.x < 16) {
        value[threadIdx.x] = codebook->value[threadIdx.x];
    }
    __syncthreads();
    Constants c{absmax, absmax2, offset, map, log_blocksize};
    int lane = threadIdx.x % WARP, row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= out) {
        return;
    }
    float acc[TOKENS] = {};
    for (int column = 8 * lane; column < in; column += 8 * WARP) {
        long e = (long)row * in + column;
        unsigned int word = *(const unsigned int *)(packed + e / 2);
        float scale = block_scale(c, e >> log_blocksize);
        float w[8];
#pragma unroll
        for (int i = 0; i < 8; i++) {
            w[i] = value[word >> (i % 2 == 0 ? 4 * i + 4 : 4 * i - 4) & 15] * scale;
        }
#pragma unroll
        for (int token = 0; token < TOKENS; token++) {
            if (token < m) {
                float v[8];
                load8(x + (long)token * in + column, v);
#pragma unroll
                for (int i = 0; i < 8; i++) {
                    acc[token] = __fmaf_rn(w[i], v[i], acc[token]);
                }
            }
        }
    }
#pragma unroll
    for (int token = 0; token < TOKENS; token++) {
        if (token < m) {
            float sum = warp_sum(acc[token]);
            long at = (long)token * out + row;
            sum += bias == nullptr ? 0 : bias[row];
            sum += residual == nullptr ? 0 : residual[at];
            if (lane == 0) {
                y[at] = sum;
            }
        }
    }
}

extern "C" __global__ void __launch_bounds__(256) matvec_f32(const float *x, int m, const float *w, int out, int in,
        float alpha, int accumulate, float *y) {
    int lane = threadIdx.x % WARP, row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP;
    if (row >= out) {
        return;
    }
    float acc[TOKENS] = {};
    for (int column = lane; column < in; column += WARP) {
        float v = w[(long)row * in + column];
#pragma unroll
        for (int token = 0; token < TOKENS; token++) {
            if (token < m) {
                acc[token] = __fmaf_rn(v, x[(long)token * in + column], acc[token]);
            }
        }
    }
#pragma unroll
    for (int token = 0; token < TOKENS; token++) {
        if (token < m) {
            float sum = alpha * warp_sum(acc[token]);
            long at = (long)token * out + row;
            if (lane == 0) {
                y[at] = accumulate ? y[at] + sum : sum;
            }
        }
    }
}
