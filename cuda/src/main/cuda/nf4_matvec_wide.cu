// Products of a few rows with 4-bit matrices (decoding) as nf4_matvec.cu has them, where `in` is a multiple of 256 and
// blocks have 64 elements or more: nearly always.
//
// A block's constant is then the same for 64 columns, so that it is multiplied with their sum, in float32, and not with
// each weight: W is not rounded to bfloat16. What is left of decoding is to look up the values of a pair of codes, four
// bytes as float16, which is within 2^-12 of each (of NF4's; bfloat16 is within 2^-9). x is brought to float16 exactly
// (exact16.cuh).
#include "exact16.cuh"
#include "grid.cuh"
#include "nf4_matvec.cuh"

// 8 bytes that are read once: they are kept out of the first-level cache.
__device__ __forceinline__ uint2 load_once8(const void *p) {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p));
    return v;
}

#define LINE 128

// Two constants of a unit, of row lane / 2 and chunks lane % 2 * 2 and the next: read ahead, then both levels applied.
struct Scales {
    const void *absmax;
    const float *absmax2;
    uint2 first;
    float second, offset;

    __device__ __forceinline__ void begin(const Matrix4 &w) {
        absmax = w.absmax, absmax2 = w.absmax2, offset = w.absmax2 == nullptr ? 0 : *w.offset;
    }

    // Where blocks are larger than a chunk, both are in one.
    __device__ __forceinline__ void load(long start, int log_blocksize) {
        long block = start >> log_blocksize;
        bool two = log_blocksize == LOG_CHUNK;
        if (absmax2 == nullptr) {
            const unsigned int *p = (const unsigned int *)absmax + block;
            first = make_uint2(p[0], p[two ? 1 : 0]);
        } else {
            const unsigned char *p = (const unsigned char *)absmax + block;
            first = make_uint2(p[0], p[two ? 1 : 0]);
            second = absmax2[block >> LOG_NESTED_BLOCKSIZE];
        }
    }

    __device__ __forceinline__ void store(const float *map, float *own) const {
        float2 v = make_float2(__uint_as_float(first.x), __uint_as_float(first.y));
        if (absmax2 != nullptr) {
            v.x = __fadd_rn(__fmul_rn(map[first.x], second), offset);
            v.y = __fadd_rn(__fmul_rn(map[first.y], second), offset);
        }
        ((float2 *)own)[threadIdx.x % WARP] = v;
    }
};

// Asks for the block's rows of B, which are read last.
__device__ __forceinline__ void prefetch_adapters(const Matrices &all, int first_tile, int tiles) {
    for (int i = threadIdx.x; i < tiles * TILE_ROWS; i += THREADS) {
        int tile = first_tile + i / TILE_ROWS;
        const Matrix4 &w = all.of[matrix_of(all, tile)];
        int row = (tile - w.first_tile) * TILE_ROWS + i % TILE_ROWS;
        for (int e = 0; e < w.rank && row < w.out; e += LINE / 4) {
            prefetch(w.b + (long)row * w.rank + e);
        }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) nf4_matvec_wide_bf16(const bf16 *x, int m, const float *map,
        const Codebook *codebook, int tiles_a_block, const __grid_constant__ Matrices all) {
    extern __shared__ __align__(16) unsigned char table[];
    __shared__ float map_values[256];
    __shared__ __align__(16) float scales[WARPS][TILE_ROWS * CHUNKS];
    __shared__ unsigned int largest[TOKENS];
    __shared__ float factor[TOKENS];
    next_may_begin();
    const int in = all.in, log_blocksize = all.log_blocksize;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    int first_tile = blockIdx.x * tiles_a_block, tiles = min(tiles_a_block, all.tiles - first_tile);
    // In shared memory: the table, parts [warps + tiles, m, rows], x; rows of x a piece apart to spread the banks.
    float *parts = (float *)(table + TABLE_BYTES);
    unsigned char *copied = (unsigned char *)(parts + (WARPS + tiles_a_block) * m * TILE_ROWS);
    const int x_bytes = 2 * in + 16, pieces = in / 8;

    // This warp's run of units: of tile j from a column on. What is read ahead is of tile `ahead`.
    int a_tile = in / UNIT, share = (tiles * a_tile + WARPS - 1) / WARPS;
    int begin = warp * share, left = min(share, tiles * a_tile - begin);
    int j = begin / a_tile, column = (begin - j * a_tile) * UNIT, ahead = j, ahead_column = column, to_read = left;
    Scales constants;
    float *own = scales[warp];
    const unsigned char *row0, *row1;
    long scale_row;
    // Nothing is read beyond a matrix: rows too far are taken to be the last. A lane has 16 codes of each chunk.
    auto begin_rows = [&]() {
        const Matrix4 &w = all.of[matrix_of(all, first_tile + ahead)];
        int row = (first_tile + ahead - w.first_tile) * TILE_ROWS;
        row0 = w.packed + (long)min(row + g, w.out - 1) * in / 2 + 8 * t;
        row1 = w.packed + (long)min(row + g + 8, w.out - 1) * in / 2 + 8 * t;
        scale_row = (long)min(row + lane / 2, w.out - 1) * in + lane % 2 * 2 * CHUNK;
        constants.begin(w);
    };
    auto read = [&](uint2 *to, int chunk) {
        int from = ahead_column / 2 + chunk * (CHUNK / 2);
        to[0] = load_once8(row0 + from);
        to[1] = load_once8(row1 + from);
    };
    uint2 words[CHUNKS][2];
    if (left > 0) {
        begin_rows();
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            read(words[c], c);
        }
        constants.load(scale_row + ahead_column, log_blocksize);
    }
    // Weights are asked for before the table is made, and while the kernel in front may still run.
    PairTable<THREADS> pairs(codebook);
    if (threadIdx.x < 256) {
        map_values[threadIdx.x] = map[threadIdx.x];
    }
    if (threadIdx.x < TOKENS) {
        largest[threadIdx.x] = 0;
    }
    pairs.write(table);
    if (all.adapted) {
        prefetch_adapters(all, first_tile, tiles);
    }
    previous_has_ended();
    uint4 piece = threadIdx.x < m * pieces ? ((const uint4 *)x)[threadIdx.x] : make_uint4(0, 0, 0, 0);
    __syncthreads();
    // Pieces of a warp are of one token, as a row has whole warps of them.
    for (int i = threadIdx.x; i < m * pieces; i += THREADS) {
        uint4 p = i < THREADS ? piece : ((const uint4 *)x)[i];
        unsigned int most = __vmaxu2(__vmaxu2(p.x & 0x7fff7fff, p.y & 0x7fff7fff), __vmaxu2(p.z & 0x7fff7fff, p.w & 0x7fff7fff));
        most = __reduce_max_sync(0xffffffff, max(most & 0xffff, most >> 16));
        if (lane == 0) {
            atomicMax(largest + i / pieces, most);
        }
    }
    __syncthreads();
    if (threadIdx.x < m) {
        factor[threadIdx.x] = power(254 - x_exponent(largest[threadIdx.x]));
    }
    for (int i = threadIdx.x; i < m * pieces; i += THREADS) {
        uint4 p = i < THREADS ? piece : ((const uint4 *)x)[i];
        int token = i / pieces;
        float f = power(x_exponent(largest[token]));
        const unsigned int from[4] = {p.x, p.y, p.z, p.w};
        unsigned int to[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            to[k] = to_f16(from[k], f);
        }
        *(uint4 *)(copied + token * x_bytes + (i - token * pieces) * 16) = make_uint4(to[0], to[1], to[2], to[3]);
    }
    __syncthreads();

    unsigned int copy = lane * 4;
    // Lanes whose column of the product is beyond m have zeros, and read nothing.
    const unsigned char *xs = copied + min(g, m - 1) * x_bytes + 32 * t;
    float sums[4] = {0, 0, 0, 0};
    for (; left > 0; left--) {
        __syncwarp();
        constants.store(map_values, own);
        __syncwarp();
        bool last = column + UNIT >= in || left == 1;
        if (--to_read > 0) {
            ahead_column += UNIT;
            if (ahead_column >= in) {
                ahead_column = 0;
                ahead++;
                begin_rows();
            }
            constants.load(scale_row + ahead_column, log_blocksize);
        }
        float4 v0 = ((const float4 *)own)[g], v1 = ((const float4 *)own)[g + 8];
        const float s0[CHUNKS] = {v0.x, v0.y, v0.z, v0.w}, s1[CHUNKS] = {v1.x, v1.y, v1.z, v1.w};
#pragma unroll
        for (int c = 0; c < CHUNKS; c++) {
            uint4 b[2] = {make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0)};
            if (g < m) {
                const uint4 *from = (const uint4 *)(xs + 2 * (column + c * CHUNK));
                b[0] = from[0];
                b[1] = from[1];
            }
            // Two sums, so that a product need not wait for the one before.
            float acc[4] = {0, 0, 0, 0}, more[4] = {0, 0, 0, 0};
            const unsigned int w0[2] = {words[c][0].x, words[c][0].y}, w1[2] = {words[c][1].x, words[c][1].y};
#pragma unroll
            for (int i = 0; i < 2; i++) {
                unsigned int a[4] = {decode(table, copy, w0[i], 0), decode(table, copy, w1[i], 0),
                        decode(table, copy, w0[i], 1), decode(table, copy, w1[i], 1)};
                mma_f16(acc, a, b[i].x, b[i].y);
                unsigned int d[4] = {decode(table, copy, w0[i], 2), decode(table, copy, w1[i], 2),
                        decode(table, copy, w0[i], 3), decode(table, copy, w1[i], 3)};
                mma_f16(more, d, b[i].z, b[i].w);
            }
#pragma unroll
            for (int i = 0; i < 4; i++) {
                sums[i] = __fmaf_rn(i < 2 ? s0[c] : s1[c], acc[i] + more[i], sums[i]);
            }
            if (to_read > 0) {
                read(words[c], c);
            }
        }
        column += UNIT;
        if (last) {
            float *part = part_of(parts, warp, j, m);
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int token = 2 * t + i % 2;
                if (token < m) {
                    part[token * TILE_ROWS + g + 8 * (i / 2)] = sums[i];
                }
                sums[i] = 0;
            }
            column = 0;
            j++;
        }
    }
    __syncthreads();
    write_results(all, parts, first_tile, tiles, m, a_tile, share, factor);
}
