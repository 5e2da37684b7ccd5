// Products of one or two rows with 4-bit matrices (decoding), y [m, out] = x [m, in] * W [out, in]^T in bfloat16, where `in` is
// a multiple of 256 and W in blocks of 64 whose constants are quantized too: QLoRA's own configuration. nf4_matvec_wide.cu takes
// the rest; as there, a block's constant is multiplied with the sum of its columns, x is brought to float16 exactly, and of W
// only the codebook is rounded, to float16.
//
// The limit is reading W, and what a block does before it multiplies, since memory is idle then: of 14 us for 14336 x 4096 that
// were 4. A warp reads whole lines and has two units under way. What constants are made of is asked for first, before the kernel
// in front has ended; they are made while x is on its way.
//
// x may be what RMSNorm makes of it (matvec_input.cuh), adapters' u = x * A^T are computed here too (matvec_inner.cuh), and
// of gate and up only silu(gate) * up is written: in decoding a launch costs more than any of these.
#include "grid.cuh"
#include "matvec_inner.cuh"
#include "matvec_input.cuh"

// Units of a warp under way.
#define SETS 2

// As decode of exact16.cuh; `table` and what follows it are 32 bits.
__device__ __forceinline__ unsigned int pair_of(unsigned int table, unsigned int own, unsigned int word, int n) {
    unsigned int pair;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(pair) : "r"(table + __byte_perm(own, word, 0x3300 | 4 + n << 4)));
    return pair;
}

// Constants of the block's tiles [tiles, rows, scale_stride], both levels applied. A row's four do not meet in a bank with those
// of the three rows after it.
__device__ __forceinline__ int scale_stride(int in) {
    return in / CHUNK + CHUNKS;
}

// Sixteen constants of a tile: their codes, which follow each other in memory, and what they have in common.
struct ScalePiece {
    unsigned int codes[4];
    float second, offset;

    // Piece i of the block's. Nothing is read beyond a matrix.
    __device__ __forceinline__ void load(const Matrices &all, int i) {
        const int a_row = (unsigned int)all.in / CHUNK, local = quotient(i, a_row);
        Tile tile = tile_of(all, local);
        const Matrix4 &w = all.of[tile.matrix];
        unsigned int first = tile.row * a_row + (i - local * a_row) * 16, end = w.out * a_row;
        second = __ldg(w.absmax2 + (min(first, end - 1) >> LOG_NESTED_BLOCKSIZE));
        offset = __ldg(w.offset);
#pragma unroll
        for (int k = 0; k < 4; k++) {
            codes[k] = __ldg((const unsigned int *)((const unsigned char *)w.absmax + min(first + 4 * k, end - 4)));
        }
    }

    // Both levels applied.
    __device__ __forceinline__ void store(const Matrices &all, int i, const float *map, float *scales) const {
        const int a_row = (unsigned int)all.in / CHUNK, local = quotient(i, a_row);
        int at = (i - local * a_row) * 16, row = quotient(at, a_row), column = at - row * a_row;
        row += local * TILE_ROWS;
#pragma unroll
        for (int k = 0; k < 4; k++) {
            float v[CHUNKS];
#pragma unroll
            for (int j = 0; j < CHUNKS; j++) {
                v[j] = __fadd_rn(__fmul_rn(map[codes[k] >> 8 * j & 255], second), offset);
            }
            *(float4 *)(scales + row * scale_stride(all.in) + column) = make_float4(v[0], v[1], v[2], v[3]);
            column += CHUNKS;
            if (column == a_row) {
                column = 0;
                row++;
            }
        }
    }
};

// Pieces that a thread reads before the kernel in front has ended.
#define HELD 2

// A warp's units of a block's tiles, of tile j from a column on. What is read ahead is of tile `ahead`.
//
// A lane reads 16 bytes, 32 columns, of rows lane / 8 + 4 k of a unit: eight lanes a row, so that a row's 128 bytes are one
// piece of memory. To the tensor cores these are 16 rows of 128 columns, 2 r and 2 r + 1 the halves of row r, twice: their
// row g = lane / 4 is half g % 2, in which lane t = lane % 4 has columns 32 t to 32 t + 31. Of x a token is four columns of
// the second operand, 2 h + s has half h where t / 2 is s and zeros elsewhere: so each of a row's four blocks has a sum of
// its own, which is in lane t = 2 token + h of g with g % 2 == h, and is multiplied with its constant there. The other sums
// are of no use.
struct Run {
    const Matrices &all;
    int left, to_read, j, column, ahead, ahead_column;
    const unsigned char *rows[4];
    uint4 words[SETS][4];

    __device__ __forceinline__ Run(const Matrices &all, int begin, int units) : all(all), left(units), to_read(units) {
        int a_tile = (unsigned int)all.in / UNIT;
        ahead = j = quotient(begin, a_tile);
        ahead_column = column = (begin - j * a_tile) * UNIT;
        if (left > 0) {
            begin_rows();
            ask(words[0]);
        }
    }

    // The other units. Not at once: what is read between would wait behind them.
    __device__ __forceinline__ void read_more() {
#pragma unroll
        for (int s = 1; s < SETS; s++) {
            read(words[s]);
        }
    }

    // Nothing is read beyond a matrix: rows too far are taken to be the last.
    __device__ __forceinline__ void begin_rows() {
        int lane = threadIdx.x % WARP;
        Tile tile = tile_of(all, ahead);
        const Matrix4 &w = all.of[tile.matrix];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            rows[k] = w.packed + (long)min(tile.row + 4 * k + lane / 8, w.out - 1) * ((unsigned int)all.in / 2) + lane % 8 * 16;
        }
    }

    __device__ __forceinline__ void read(uint4 (&to)[4]) {
        if (to_read > 0) {
            if (ahead_column >= all.in) {
                ahead_column = 0;
                ahead++;
                begin_rows();
            }
            ask(to);
        }
    }

    __device__ __forceinline__ void ask(uint4 (&to)[4]) {
#pragma unroll
        for (int k = 0; k < 4; k++) {
            to[k] = load_once(rows[k] + ahead_column / 2);
        }
        ahead_column += UNIT;
        to_read--;
    }

    // Multiplies with x [m, in] as Input copied it, and writes the parts.
    __device__ __forceinline__ void multiply(unsigned int table, const unsigned char *copied, int x_bytes, int m,
            const float *scales, float *parts) {
        int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4, warp = threadIdx.x / WARP;
        const unsigned int copy = lane * 4;
        const unsigned char *xs = copied + g / 4 * x_bytes + g / 2 % 2 * UNIT + 16 * t;
        const int stride = scale_stride(all.in);
        // Lanes without an element of x have zeros, and read nothing.
        bool has_x = t / 2 == g % 2 && g / 4 < m;
        uint4 b = make_uint4(0, 0, 0, 0);
        float sums[4] = {0, 0, 0, 0};
        while (left > 0) {
#pragma unroll
            for (int s = 0; s < SETS; s++) {
                if (left == 0) {
                    break;
                }
                const float *own = scales + (j * TILE_ROWS + lane / 8) * stride + column / CHUNK + g % 2 * 2;
                float acc[2][4] = {};
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    if (has_x) {
                        b = *(const uint4 *)(xs + 2 * column + 64 * i);
                    }
#pragma unroll
                    for (int q = 0; q < 2; q++) {
                        const uint4 &v0 = words[s][2 * q], &v1 = words[s][2 * q + 1];
                        const unsigned int w0 = i == 0 ? v0.x : i == 1 ? v0.y : i == 2 ? v0.z : v0.w;
                        const unsigned int w1 = i == 0 ? v1.x : i == 1 ? v1.y : i == 2 ? v1.z : v1.w;
                        unsigned int a[4] = {pair_of(table, copy, w0, 0), pair_of(table, copy, w1, 0),
                                pair_of(table, copy, w0, 1), pair_of(table, copy, w1, 1)};
                        mma_f16(acc[q], a, b.x, b.y);
                        unsigned int d[4] = {pair_of(table, copy, w0, 2), pair_of(table, copy, w1, 2),
                                pair_of(table, copy, w0, 3), pair_of(table, copy, w1, 3)};
                        mma_f16(acc[q], d, b.z, b.w);
                    }
                }
                read(words[s]);
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    float2 scale = *(const float2 *)(own + 4 * k * stride);
                    sums[k] = __fmaf_rn(scale.x, acc[k / 2][k % 2 * 2], sums[k]);
                    sums[k] = __fmaf_rn(scale.y, acc[k / 2][k % 2 * 2 + 1], sums[k]);
                }
                column += UNIT;
                left--;
                if (column >= all.in || left == 0) {
                    float *part = part_of(parts, warp, j, m);
#pragma unroll
                    for (int k = 0; k < 4; k++) {
                        // The other half of the row.
                        float sum = sums[k] + __shfl_xor_sync(0xffffffff, sums[k], 5);
                        if (g % 2 == 0 && t % 2 == 0 && t / 2 < m) {
                            part[t / 2 * TILE_ROWS + 4 * k + lane / 8] = sum;
                        }
                        sums[k] = 0;
                    }
                    column = 0;
                    j++;
                }
            }
        }
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 1) nf4_matvec_two_bf16(const bf16 *x, int m, const float *map,
        const Codebook *codebook, int tiles_a_block, const __grid_constant__ Matrices all) {
    extern __shared__ __align__(16) unsigned char table[];
    __shared__ float map_values[256];
    __shared__ InputShared input_shared;
    __shared__ unsigned int ready;
    next_may_begin();
    const int in = all.in;
    int warp = threadIdx.x / WARP;
    // The first weights and what is not much are asked for while the kernel in front may still run, before any of it is used.
    PairTable<THREADS> pairs(codebook);
    float value;
    if (threadIdx.x < 256) {
        value = map[threadIdx.x];
    }
    // Tiles, or pairs of them, go round the blocks.
    int turns = tiles_a_block >> all.gated;
    turns -= blockIdx.x >= (all.tiles >> all.gated) - (turns - 1) * gridDim.x;
    int tiles = turns << all.gated;
    // In shared memory: the table, parts [warps + tiles, m, rows], what is added [m, tiles, rows], constants, x and, in its
    // place at the end, u; rows of x a piece apart to spread the banks.
    float *parts = (float *)(table + TABLE_BYTES), *added = parts + (WARPS + tiles_a_block) * m * TILE_ROWS;
    float *scales = added + tiles_a_block * m * TILE_ROWS;
    unsigned char *copied = (unsigned char *)(scales + tiles_a_block * TILE_ROWS * scale_stride(in));
    const int x_bytes = 2 * in + 16, scale_pieces = tiles * ((unsigned int)in / CHUNK);
    int a_tile = (unsigned int)in / UNIT, share = (unsigned int)(tiles * a_tile + WARPS - 1) / WARPS;
    ScalePiece held[HELD];
#pragma unroll
    for (int k = 0; k < HELD; k++) {
        if (threadIdx.x + k * THREADS < scale_pieces) {
            held[k].load(all, threadIdx.x + k * THREADS);
        }
    }
    Run run(all, warp * share, max(min(share, tiles * a_tile - warp * share), 0));
    Input input(x, all.norm, m, in);
    if (all.adapted) {
        prefetch_adapters(all, tiles);
    }
    if (threadIdx.x < 256) {
        map_values[threadIdx.x] = value;
    }
    if (threadIdx.x == 0) {
        ready = 0;
    }
    pairs.write(table);
    previous_has_ended();
    input.begin();
    __syncthreads();
    // While x is on its way, which must not be waited for here.
    ScalePiece piece = held[0];
#pragma unroll 1
    for (int i = threadIdx.x; i < min(scale_pieces, HELD * THREADS); i += THREADS) {
        piece.store(all, i, map_values, scales);
        piece = held[1];
    }
#pragma unroll 1
    for (int i = threadIdx.x + HELD * THREADS; i < scale_pieces; i += THREADS) {
        piece.load(all, i);
        piece.store(all, i, map_values, scales);
    }
    input.copy(all.eps, copied, x_bytes, input_shared);
    run.read_more();
    const float *factor = input_shared.factor;
    if (all.pieces > 0) {
        inner_products(all, copied, x_bytes, m, factor, &ready);
    }

    Result result(all, tiles, m);
    run.multiply(shared_address(table), copied, x_bytes, m, scales, parts);
    if (all.adapted) {
        float *us = (float *)copied;
        collect_inner(all, m, us);
        add_adapters(all, tiles, m, us, added);
    }
    __syncthreads();
    result.write(all, parts, added, tiles, m, a_tile, share, factor);
}
