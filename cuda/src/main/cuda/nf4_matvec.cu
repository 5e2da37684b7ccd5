// Products of a few rows with 4-bit matrices (decoding): y [m, out] = x [m, in] * W [out, in]^T, m <= 8, in bfloat16.
//
// W is decoded in registers, rounded to bfloat16 as dequantization rounds, and multiplied by the tensor cores. Up to
// three matrices that take the same x go in one launch (q, k and v; gate and up), and each may have an adapter, whose
// second product is added before the result is rounded: y += scale * u * B^T, with u = x * A^T from lora_down.
// `in` is a multiple of 32.
//
// The limit is reading W. A tile is 16 rows of W (the tensor cores' first operand); the rows of x are the 8 columns of
// the second. A block has `tiles_a_block` tiles that follow each other, and is alone on a multiprocessor. Its warps
// share the tiles' units of 256 columns, each a run of them, so that a warp begins and ends within tiles: what it has of
// a tile is a part, and at the end a tile's parts are added in order. Nobody waits for anybody in between. Beside device
// memory the limit is shared memory: a lookup a pair of weights.
#include "codebook.cuh"
#include "matrices.cuh"
#include "mma.cuh"
#include "numbers.cuh"

#define TILE_ROWS 16
#define TOKENS 8
#define WARP 32
#define WARPS 16
#define THREADS (WARPS * WARP)
// A unit is two stretches of 128 columns. In a stretch, a lane has 32 codes of row g and 32 of row g + 8, from column 32 t
// on. A unit has up to 9 constants a row.
#define STRETCH 128
#define UNIT (2 * STRETCH)
#define UNIT_SCALES 9
#define SCALE_STRIDE 12
// Threads that share the inner product of an adapter.
#define SHARE 8

// The table of decode.cuh with a copy for each lane: the value of a byte is then 256 bytes behind the one before, so that
// one instruction puts a lane's offset in it together from the byte and the lane's.
#define COPY_BYTES (WARP * 8)
#define TABLE_BYTES (256 * COPY_BYTES)

// A thread's part of the table: a byte's second value is the same in all of it.
struct TablePart {
    float first[TABLE_BYTES / 16 / THREADS], second;

    __device__ TablePart(const Codebook *codebook) {
        second = codebook->value[threadIdx.x / WARP * 2 % 16 + threadIdx.x % WARP / 16];
#pragma unroll
        for (int k = 0; k < TABLE_BYTES / 16 / THREADS; k++) {
            first[k] = codebook->value[(threadIdx.x + k * THREADS) / 256];
        }
    }

    __device__ void write(unsigned char *table) const {
#pragma unroll
        for (int k = 0; k < TABLE_BYTES / 16 / THREADS; k++) {
            ((float4 *)table)[threadIdx.x + k * THREADS] = make_float4(first[k], second, first[k], second);
        }
    }
};

// The two weights in byte `n` of a word, rounded to float32, then to bfloat16; `own` is the offset of the lane's copy.
__device__ __forceinline__ unsigned int decode(const unsigned char *table, unsigned int own, unsigned int word, int n,
        float scale) {
    float2 v = *(const float2 *)(table + __byte_perm(own, word, 0x3300 | 4 + n << 4));
    return pack_bf16(v.x * scale, v.y * scale);
}

// A unit's constants, both levels applied, in the warp's own piece of shared memory. Blocks of 64 in rows of whole units
// are read ahead, two a lane: of row lane / 2.
struct Scales {
    const void *absmax;
    const float *absmax2;
    uint2 first;
    float second, offset;

    __device__ void begin(const Matrix4 &w) {
        absmax = w.absmax, absmax2 = w.absmax2, offset = w.absmax2 == nullptr ? 0 : *w.offset;
    }

    __device__ void load(long start) {
        long block = start >> 6;
        if (absmax2 == nullptr) {
            first = *(const uint2 *)((const float *)absmax + block);
        } else {
            first.x = *(const unsigned short *)((const unsigned char *)absmax + block);
            second = absmax2[block >> LOG_NESTED_BLOCKSIZE];
        }
    }

    __device__ void store(const float *map, float *own) const {
        float2 v = make_float2(__uint_as_float(first.x), __uint_as_float(first.y));
        if (absmax2 != nullptr) {
            v.x = __fadd_rn(__fmul_rn(map[first.x & 255], second), offset);
            v.y = __fadd_rn(__fmul_rn(map[first.x >> 8], second), offset);
        }
        int lane = threadIdx.x % WARP;
        *(float2 *)(own + lane / 2 * SCALE_STRIDE + lane % 2 * 2) = v;
    }
};

// Other layouts: of each row from the block with the unit's first column on.
__device__ __noinline__ void make_scales(const void *absmax, const float *absmax2, float offset, int out, int row,
        int column, int in, int log_blocksize, const float *map, float *own) {
    for (int i = threadIdx.x % WARP; i < TILE_ROWS * UNIT_SCALES; i += WARP) {
        long start = (long)min(row + i / UNIT_SCALES, out - 1) * in;
        long last = start + min(column + UNIT, in) - 1 >> log_blocksize;
        long block = min((start + column >> log_blocksize) + i % UNIT_SCALES, last);
        own[i / UNIT_SCALES * SCALE_STRIDE + i % UNIT_SCALES] = absmax2 == nullptr ? ((const float *)absmax)[block]
                : __fadd_rn(__fmul_rn(map[((const unsigned char *)absmax)[block]],
                        absmax2[block >> LOG_NESTED_BLOCKSIZE]), offset);
    }
}

// Which matrix a tile is of.
__device__ __forceinline__ int matrix_of(const Matrices &all, int tile) {
    return tile >= all.of[2].first_tile ? 2 : tile >= all.of[1].first_tile ? 1 : 0;
}

extern "C" __global__ void __launch_bounds__(THREADS, 1) nf4_matvec_bf16(const bf16 *x, int m, const float *map,
        const Codebook *codebook, int tiles_a_block, int x_is_copied, const __grid_constant__ Matrices all) {
    extern __shared__ __align__(16) unsigned char table[];
    __shared__ float map_values[256];
    __shared__ __align__(16) float scales[WARPS][TILE_ROWS * SCALE_STRIDE];
    const int in = all.in, log_blocksize = all.log_blocksize;
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    int first_tile = blockIdx.x * tiles_a_block, tiles = min(tiles_a_block, all.tiles - first_tile);
    // In shared memory: the table, parts [warps + tiles, m, rows], x.
    float *parts = (float *)(table + TABLE_BYTES);
    bf16 *copied = (bf16 *)(parts + (WARPS + tiles_a_block) * m * TILE_ROWS);

    // This warp's run of units: of tile j from a column on. What is read ahead is of tile `ahead`.
    int a_tile = (in + UNIT - 1) / UNIT, share = (tiles * a_tile + WARPS - 1) / WARPS;
    int begin = warp * share, left = min(share, tiles * a_tile - begin);
    int j = begin / a_tile, column = (begin - j * a_tile) * UNIT, ahead = j, ahead_column = column, to_read = left;
    bool pairs = log_blocksize == 6 && in % UNIT == 0;
    Scales constants;
    float *own = scales[warp];
    const unsigned char *row0, *row1;
    long scale_row;
    int row, out;       // of what is read ahead: the tile's first row, the matrix's rows
    // Nothing is read beyond a matrix: rows too far are taken to be the last, and so are columns.
    auto begin_rows = [&]() {
        const Matrix4 &w = all.of[matrix_of(all, first_tile + ahead)];
        row = (first_tile + ahead - w.first_tile) * TILE_ROWS;
        out = w.out;
        row0 = w.packed + (long)min(row + g, out - 1) * in / 2;
        row1 = w.packed + (long)min(row + g + 8, out - 1) * in / 2;
        scale_row = (long)min(row + lane / 2, out - 1) * in + lane % 2 * STRETCH;
        constants.begin(w);
    };
    auto read = [&](uint4 *to, int stretch) {
        int from = min(ahead_column + stretch * STRETCH + 32 * t, in - 32) / 2;
        to[0] = load_once(row0 + from);
        to[1] = load_once(row1 + from);
    };
    uint4 words[2][2];
    if (left > 0) {
        begin_rows();
        read(words[0], 0);
        read(words[1], 1);
        if (pairs) {
            constants.load(scale_row + ahead_column);
        }
    }
    // Everything that is needed first is asked for before any of it is used.
    TablePart part_of_table(codebook);
    const int pieces = x_is_copied ? m * in / 8 : 0;
    uint4 piece = threadIdx.x < pieces ? ((const uint4 *)x)[threadIdx.x] : make_uint4(0, 0, 0, 0);
    if (threadIdx.x < 256) {
        map_values[threadIdx.x] = map[threadIdx.x];
    }
    part_of_table.write(table);
    if (threadIdx.x < pieces) {
        ((uint4 *)copied)[threadIdx.x] = piece;
    }
    for (int i = threadIdx.x + THREADS; i < pieces; i += THREADS) {
        ((uint4 *)copied)[i] = ((const uint4 *)x)[i];
    }
    __syncthreads();

    unsigned int copy = lane * 8;
    // Lanes whose column of the product is beyond m have zeros, and read nothing.
    const bf16 *xs = (x_is_copied ? copied : x) + (long)min(g, m - 1) * in;
    // Two sums, so that a product need not wait for the one before.
    float acc[4] = {0, 0, 0, 0}, more[4] = {0, 0, 0, 0};
    for (; left > 0; left--) {
        __syncwarp();
        // Where in the unit's first blocks rows g and g + 8 begin: 0 where blocks are aligned.
        int o0 = 0, o1 = 0;
        if (pairs) {
            constants.store(map_values, own);
        } else {
            make_scales(constants.absmax, constants.absmax2, constants.offset, out, row, column, in, log_blocksize,
                    map_values, own);
            o0 = (int)((long)min(row + g, out - 1) * in + column & (1 << log_blocksize) - 1);
            o1 = (int)((long)min(row + g + 8, out - 1) * in + column & (1 << log_blocksize) - 1);
        }
        __syncwarp();
        bool last = column + UNIT >= in || left == 1;
        if (--to_read > 0) {
            ahead_column += UNIT;
            if (ahead_column >= in) {
                ahead_column = 0;
                ahead++;
                begin_rows();
            }
            if (pairs) {
                constants.load(scale_row + ahead_column);
            }
        }
#pragma unroll
        for (int u = 0; u < 2; u++) {
            int inside = u * STRETCH + 32 * t, c = column + inside;
            if (c >= in) {
                inside = max(in - 32 - column, 0);
            }
            // 0 beyond the last column, since an infinite constant times a zero of x would be NaN.
            float s0 = c < in ? own[g * SCALE_STRIDE + (o0 + inside >> log_blocksize)] : 0;
            float s1 = c < in ? own[(g + 8) * SCALE_STRIDE + (o1 + inside >> log_blocksize)] : 0;
            uint4 b[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                b[i] = make_uint4(0, 0, 0, 0);
                if (g < m && c < in) {
                    b[i] = *((const uint4 *)(xs + column + inside) + i);
                }
            }
            const unsigned int w0[4] = {words[u][0].x, words[u][0].y, words[u][0].z, words[u][0].w};
            const unsigned int w1[4] = {words[u][1].x, words[u][1].y, words[u][1].z, words[u][1].w};
#pragma unroll
            for (int i = 0; i < 4; i++) {
                unsigned int a[4] = {decode(table, copy, w0[i], 0, s0), decode(table, copy, w1[i], 0, s1),
                        decode(table, copy, w0[i], 1, s0), decode(table, copy, w1[i], 1, s1)};
                mma_bf16(acc, a, b[i].x, b[i].y);
                unsigned int d[4] = {decode(table, copy, w0[i], 2, s0), decode(table, copy, w1[i], 2, s1),
                        decode(table, copy, w0[i], 3, s0), decode(table, copy, w1[i], 3, s1)};
                mma_bf16(more, d, b[i].z, b[i].w);
            }
            if (to_read > 0) {
                read(words[u], u);
            }
        }
        column += UNIT;
        if (last) {
            // Warps and tiles advance together: their sum is a number of the part that no other has.
            float *part = parts + (warp + j) * m * TILE_ROWS;
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int token = 2 * t + i % 2;
                if (token < m) {
                    part[token * TILE_ROWS + g + 8 * (i / 2)] = acc[i] + more[i];
                }
                acc[i] = more[i] = 0;
            }
            column = 0;
            j++;
        }
    }
    __syncthreads();

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
            sum = __fmaf_rn(w.scale, inner, sum);
            sum += w.bias == nullptr ? 0 : to_f32(w.bias[row]);
            sum += w.residual == nullptr ? 0 : to_f32(w.residual[at]);
            w.y[at] = from_f32<bf16>(sum);
        }
    }
}
