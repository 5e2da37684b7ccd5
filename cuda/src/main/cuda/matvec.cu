// Products of a few rows with a matrix that is read once (decoding): y [m, out] = x [m, in] * W [out, in]^T, m <= 8.
//
//   nf4_matvec_bf16   W in 4 bits, x and y bfloat16: W is decoded in registers, rounded to bfloat16, and multiplied by
//                     the tensor cores; `in` is a multiple of 32
//   nf4_matvec_f32    the same in float32, without tensor cores
//   matvec_bf16       W dense bfloat16, y bfloat16 or float32: y = alpha * x * W^T, or added; `in` a multiple of 8
//   matvec_f32        all in float32
//
// The limit is reading W. In the bfloat16 kernels, a tile is 16 rows of W (the tensor cores' first operand); the rows
// of x are the 8 columns of the second. The warps of a block share the columns of a tile's rows, so that enough reads
// are under way; their sums are added in their order. A block takes every gridDim.x-th tile and reads ahead.
#include "decode.cuh"
#include "mma.cuh"

#define TILE_ROWS 16
#define TOKENS 8
#define WARP 32

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

// Where a warp is in its share of the work: stretches of columns `warp`, `warp` + warps ... of a tile, then of the next.
// A position is READ_AHEAD steps ahead of the one that is multiplied.
struct Position {
    int tile, stretch;

    __device__ void step(int steps, int stretches) {
        stretch += steps;
        if (stretch >= stretches) {
            stretch = threadIdx.x / WARP;
            tile += gridDim.x;
        }
    }
};

// Stretches of 4-bit weights: 128 columns. A lane has 32 codes of row g and 32 of row g + 8, from column 32 t on.
#define STRETCH 128
#define READ_AHEAD 2

struct Codes {
    uint4 words[2];
    RawScale scales[2];
};

__device__ void load_codes(Codes &codes, const unsigned char *packed, const Constants &c, int out, int in, int tiles,
        Position p) {
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, column = p.stretch * STRETCH + 32 * t;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        codes.words[h] = make_uint4(0, 0, 0, 0);
        codes.scales[h] = RawScale{0, 0};
        if (column < in && p.tile < tiles) {
            int row = min(p.tile * TILE_ROWS + g + 8 * h, out - 1);
            long e = (long)row * in + column;
            codes.words[h] = load_once(packed + e / 2);
            codes.scales[h] = load_scale(c, e >> c.log_blocksize);
        }
    }
}

extern "C" __global__ void __launch_bounds__(256, 3) nf4_matvec_bf16(const bf16 *x, int m, const unsigned char *packed,
        const void *absmax, const float *absmax2, const float *offset, const float *map, int log_blocksize,
        const Codebook *codebook, int out, int in, const bf16 *residual, const bf16 *bias, bf16 *y) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    __shared__ Sums sums;
    float2 *table = (float2 *)dynamic_shared;
    Constants c{absmax, absmax2, offset, map, log_blocksize};
    int lane = threadIdx.x % WARP, warps = blockDim.x / WARP, g = lane / 4, t = lane % 4;
    int tiles = (out + TILE_ROWS - 1) / TILE_ROWS, stretches = (in + STRETCH - 1) / STRETCH;
    // All warps take as many steps, so that they meet at the barriers.
    int steps = (stretches + READ_AHEAD * warps - 1) / (READ_AHEAD * warps) * READ_AHEAD;
    Position ahead{(int)blockIdx.x, (int)threadIdx.x / WARP};
    Codes codes[READ_AHEAD];
#pragma unroll
    for (int u = 0; u < READ_AHEAD; u++) {
        load_codes(codes[u], packed, c, out, in, tiles, ahead);
        ahead.step(warps, steps * warps);
    }
    float shift = absmax2 == nullptr ? 0 : *offset;
    make_pair_table(codebook, table);
    __syncthreads();
    const float2 *copy = table + lane % PAIR_COPIES;
    int parity = 0;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x, parity ^= 1) {
        float acc[4] = {0, 0, 0, 0};
        int column = threadIdx.x / WARP * STRETCH + 32 * t;
        for (int step = 0; step < steps; step += READ_AHEAD) {
#pragma unroll
            for (int u = 0; u < READ_AHEAD; u++) {
                Codes now = codes[u];
                load_codes(codes[u], packed, c, out, in, tiles, ahead);
                ahead.step(warps, steps * warps);
                const uint4 *xs = (const uint4 *)(x + (long)g * in + column);
                bool there = g < m && column < in;
                column += warps * STRETCH;
                float s0 = finish_scale(c, now.scales[0], shift), s1 = finish_scale(c, now.scales[1], shift);
                unsigned int w0[4] = {now.words[0].x, now.words[0].y, now.words[0].z, now.words[0].w};
                unsigned int w1[4] = {now.words[1].x, now.words[1].y, now.words[1].z, now.words[1].w};
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    uint4 b = there ? __ldg(xs + j) : make_uint4(0, 0, 0, 0);
                    unsigned int a[4] = {decode_pair(copy, w0[j], 0, s0), decode_pair(copy, w1[j], 0, s1),
                            decode_pair(copy, w0[j], 1, s0), decode_pair(copy, w1[j], 1, s1)};
                    mma_bf16(acc, a, b.x, b.y);
                    unsigned int d[4] = {decode_pair(copy, w0[j], 2, s0), decode_pair(copy, w1[j], 2, s1),
                            decode_pair(copy, w0[j], 3, s0), decode_pair(copy, w1[j], 3, s1)};
                    mma_bf16(acc, d, b.z, b.w);
                }
            }
        }
        reduce(sums, parity, acc, [&](int r, int token, float sum) {
            int row = tile * TILE_ROWS + r;
            if (row < out && token < m) {
                long at = (long)token * out + row;
                sum += bias == nullptr ? 0 : to_f32(bias[row]);
                sum += residual == nullptr ? 0 : to_f32(residual[at]);
                y[at] = from_f32<bf16>(sum);
            }
        });
    }
}

// Stretches of dense weights: 32 columns. A lane has 8 elements of row g and of row g + 8, from column 8 t on.
#define DENSE_STRETCH 32
#define DENSE_READ_AHEAD 4

struct Weights {
    uint4 words[2];
};

__device__ void load_weights(Weights &weights, const bf16 *w, int out, int in, int tiles, Position p) {
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, column = p.stretch * DENSE_STRETCH + 8 * t;
#pragma unroll
    for (int h = 0; h < 2; h++) {
        int row = min(p.tile * TILE_ROWS + g + 8 * h, out - 1);
        bool there = column < in && p.tile < tiles;
        weights.words[h] = there ? load_once(w + (long)row * in + column) : make_uint4(0, 0, 0, 0);
    }
}

extern "C" __global__ void __launch_bounds__(256, 3) matvec_bf16(const bf16 *x, int m, const bf16 *w, int out, int in,
        float alpha, int accumulate, int y_is_float, void *y) {
    __shared__ Sums sums;
    int lane = threadIdx.x % WARP, warps = blockDim.x / WARP, g = lane / 4, t = lane % 4;
    int tiles = (out + TILE_ROWS - 1) / TILE_ROWS, stretches = (in + DENSE_STRETCH - 1) / DENSE_STRETCH;
    int steps = (stretches + DENSE_READ_AHEAD * warps - 1) / (DENSE_READ_AHEAD * warps) * DENSE_READ_AHEAD;
    Position ahead{(int)blockIdx.x, (int)threadIdx.x / WARP};
    Weights weights[DENSE_READ_AHEAD];
#pragma unroll
    for (int u = 0; u < DENSE_READ_AHEAD; u++) {
        load_weights(weights[u], w, out, in, tiles, ahead);
        ahead.step(warps, steps * warps);
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
                ahead.step(warps, steps * warps);
                bool there = g < m && column < in;
                uint4 b = there ? __ldg((const uint4 *)(x + (long)g * in + column)) : make_uint4(0, 0, 0, 0);
                column += warps * DENSE_STRETCH;
                unsigned int a[4] = {p.x, q.x, p.y, q.y};
                mma_bf16(acc, a, b.x, b.y);
                unsigned int d[4] = {p.z, q.z, p.w, q.w};
                mma_bf16(acc, d, b.z, b.w);
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
