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
// are under way; their sums are added in their order. A block takes every gridDim.x-th tile and reads ahead. Beside
// device memory the limit is the table of decode.cuh: a lookup a pair of weights.
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

// 4-bit weights: a piece is a segment of 4 stretches of 128 columns, 2 where blocks have 32 elements. In a stretch, a lane
// has 32 codes of row g and 32 of row g + 8, from column 32 t on. A segment has up to 9 constants a row.
#define STRETCH 128
#define STRETCHES 4
#define READ_AHEAD 2
#define SEGMENT_SCALES 9
#define SCALE_STRIDE 12
#define LANE_SCALES ((TILE_ROWS * SEGMENT_SCALES + WARP - 1) / WARP)

// Nothing is read beyond the matrix: a tile or a column too far is taken to be the last, and x is zero there.
struct Matrix4 {
    const unsigned char *packed;
    Constants c;
    int out, in, tiles, segment;    // columns of a segment
    bool quads;                     // whether a lane's four constants lie in one aligned piece of memory
    float offset;

    __device__ long row_start(int tile, int row) const {
        return (long)min(tile * TILE_ROWS + row, out - 1) * in;
    }

    __device__ uint4 codes(const unsigned char *row, int column) const {
        return load_once(row + min(column, in - 32) / 2);
    }

    // What a lane reads of a segment's constants: the codes or values of four blocks of a row, and their absmax2.
    __device__ void load_quad(uint4 &first, float &second, int tile, int column) const {
        int lane = threadIdx.x % WARP;
        long e = row_start(tile, lane / 2) + min(column + lane % 2 * 4 * (1 << c.log_blocksize), in - 32);
        long block = e >> c.log_blocksize & ~3l;
        if (c.absmax2 == nullptr) {
            first = *(const uint4 *)((const float *)c.absmax + block);
        } else {
            first.x = *(const unsigned int *)((const unsigned char *)c.absmax + block);
            second = c.absmax2[block >> LOG_NESTED_BLOCKSIZE];
        }
    }

    __device__ float nested(unsigned int code, float second) const {
        return __fadd_rn(__fmul_rn(c.map[code & 255], second), offset);
    }

    __device__ void store_quad(float *scales, const uint4 &first, float second) const {
        int lane = threadIdx.x % WARP;
        float4 v = make_float4(__uint_as_float(first.x), __uint_as_float(first.y), __uint_as_float(first.z),
                __uint_as_float(first.w));
        if (c.absmax2 != nullptr) {
            v = make_float4(nested(first.x, second), nested(first.x >> 8, second), nested(first.x >> 16, second),
                    nested(first.x >> 24, second));
        }
        *(float4 *)(scales + lane / 2 * SCALE_STRIDE + lane % 2 * 4) = v;
    }

    // The constants of a segment without alignment: of row r from the block with its first column on.
    __device__ __noinline__ void store_scales(float *scales, int tile, int column) const {
        for (int i = threadIdx.x % WARP; i < TILE_ROWS * SEGMENT_SCALES; i += WARP) {
            int row = i / SEGMENT_SCALES;
            long start = row_start(tile, row), last = start + min(column + segment, in) - 1 >> c.log_blocksize;
            long block = (start + min(column, in - 32) >> c.log_blocksize) + i % SEGMENT_SCALES;
            block = min(block, last);
            scales[row * SCALE_STRIDE + i % SEGMENT_SCALES] = c.absmax2 == nullptr ? ((const float *)c.absmax)[block]
                    : nested(((const unsigned char *)c.absmax)[block], c.absmax2[block >> LOG_NESTED_BLOCKSIZE]);
        }
    }
};

extern "C" __global__ void __launch_bounds__(256, 3) nf4_matvec_bf16(const bf16 *x, int m, const unsigned char *packed,
        const void *absmax, const float *absmax2, const float *offset, const float *map, int log_blocksize,
        const Codebook *codebook, int out, int in, const bf16 *residual, const bf16 *bias, bf16 *y) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    __shared__ Sums sums;
    __shared__ __align__(16) float scales[8][TILE_ROWS * SCALE_STRIDE];
    __shared__ float map_values[256];
    float2 *table = (float2 *)dynamic_shared;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP, g = lane / 4, t = lane % 4;
    int stretches = log_blocksize == 5 ? STRETCHES / 2 : STRETCHES;
    Matrix4 w{packed, Constants{absmax, absmax2, offset, map_values, log_blocksize}, out, in,
            (out + TILE_ROWS - 1) / TILE_ROWS, stretches * STRETCH,
            log_blocksize <= 6 && (in & (4 << log_blocksize) - 1) == 0, absmax2 == nullptr ? 0 : *offset};
    // All warps take as many segments, so that they meet at the barriers.
    int segments = (in + w.segment - 1) / w.segment, rounds = (segments + warps - 1) / warps;
    int tile = blockIdx.x, from = warp * w.segment;
    const unsigned char *row0 = packed + w.row_start(tile, g) / 2, *row1 = packed + w.row_start(tile, g + 8) / 2;
    uint4 words[READ_AHEAD][2], quad = make_uint4(0, 0, 0, 0);
    float second = 0;
#pragma unroll
    for (int u = 0; u < READ_AHEAD; u++) {
        words[u][0] = w.codes(row0, from + u * STRETCH + 32 * t);
        words[u][1] = w.codes(row1, from + u * STRETCH + 32 * t);
    }
    if (w.quads) {
        w.load_quad(quad, second, tile, from);
    }
    for (int i = threadIdx.x; i < 256; i += blockDim.x) {
        map_values[i] = map[i];
    }
    make_pair_table(codebook, table);
    __syncthreads();
    unsigned int copy = pair_copy();
    const bf16 *xs = x + (long)min(g, m - 1) * in;
    float *own = scales[warp];
    for (int parity = 0; tile < w.tiles; tile += gridDim.x, parity ^= 1) {
        // Two sums, so that a product need not wait for the one before.
        float acc[4] = {0, 0, 0, 0}, more[4] = {0, 0, 0, 0};
        for (int round = 0; round < rounds; round++) {
            from = (round * warps + warp) * w.segment;
            bool last = round + 1 == rounds;
            int next_tile = last ? tile + gridDim.x : tile;
            int next_from = last ? warp * w.segment : from + warps * w.segment;
            const unsigned char *next0 = row0, *next1 = row1;
            if (last) {
                next0 = packed + w.row_start(next_tile, g) / 2, next1 = packed + w.row_start(next_tile, g + 8) / 2;
            }
            __syncwarp();
            // Where in the segment's first block rows g and g + 8 begin: 0 where blocks are aligned.
            int o0 = 0, o1 = 0;
            if (w.quads) {
                w.store_quad(own, quad, second);
                w.load_quad(quad, second, next_tile, next_from);
            } else {
                w.store_scales(own, tile, from);
                o0 = (int)(w.row_start(tile, g) + from & (1 << log_blocksize) - 1);
                o1 = (int)(w.row_start(tile, g + 8) + from & (1 << log_blocksize) - 1);
            }
            __syncwarp();
#pragma unroll 1
            for (int stretch = 0; stretch < stretches; stretch += READ_AHEAD) {
                bool leave = stretch + READ_AHEAD >= stretches;
                const unsigned char *ahead0 = leave ? next0 : row0, *ahead1 = leave ? next1 : row1;
                int ahead = (leave ? next_from : from + (stretch + READ_AHEAD) * STRETCH) + 32 * t;
#pragma unroll
                for (int u = 0; u < READ_AHEAD; u++) {
                    int inside = (stretch + u) * STRETCH + 32 * t, column = from + inside;
                    float s0 = own[g * SCALE_STRIDE + (o0 + inside >> log_blocksize)];
                    float s1 = own[(g + 8) * SCALE_STRIDE + (o1 + inside >> log_blocksize)];
                    unsigned int w0[4] = {words[u][0].x, words[u][0].y, words[u][0].z, words[u][0].w};
                    unsigned int w1[4] = {words[u][1].x, words[u][1].y, words[u][1].z, words[u][1].w};
                    words[u][0] = w.codes(ahead0, ahead + u * STRETCH);
                    words[u][1] = w.codes(ahead1, ahead + u * STRETCH);
                    bool there = g < m && column < in;
#pragma unroll
                    for (int j = 0; j < 4; j++) {
                        uint4 b = there ? __ldg((const uint4 *)(xs + column) + j) : make_uint4(0, 0, 0, 0);
                        unsigned int a[4] = {decode_pair(table, copy, w0[j], 0, s0), decode_pair(table, copy, w1[j], 0, s1),
                                decode_pair(table, copy, w0[j], 1, s0), decode_pair(table, copy, w1[j], 1, s1)};
                        mma_bf16(acc, a, b.x, b.y);
                        unsigned int d[4] = {decode_pair(table, copy, w0[j], 2, s0), decode_pair(table, copy, w1[j], 2, s1),
                                decode_pair(table, copy, w0[j], 3, s0), decode_pair(table, copy, w1[j], 3, s1)};
                        mma_bf16(more, d, b.z, b.w);
                    }
                }
            }
            row0 = next0, row1 = next1;
        }
        for (int i = 0; i < 4; i++) {
            acc[i] += more[i];
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
