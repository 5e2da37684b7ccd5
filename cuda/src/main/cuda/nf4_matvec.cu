// Products of a few rows with 4-bit matrices (decoding): y [m, out] = x [m, in] * W [out, in]^T, m <= 8, in bfloat16.
// `in` is a multiple of 32; what nf4_matvec_wide.cu takes is faster there.
//
// W is decoded in registers, rounded to bfloat16 as dequantization rounds, and multiplied by the tensor cores. Up to
// three matrices that take the same x go in one launch (q, k and v; gate and up), and each may have an adapter, whose
// second product is added before the result is rounded: y += scale * u * B^T, with u = x * A^T from lora_down.
// The limits are reading W, and shared memory: a lookup of eight bytes a pair of weights.
#include "nf4_matvec.cuh"

// A unit is two stretches of 128 columns. In a stretch, a lane has 32 codes of row g and 32 of row g + 8, from column 32 t
// on. A unit has up to 9 constants a row.
#define STRETCH 128
#define UNIT_SCALES 9
#define SCALE_STRIDE 12

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

// A unit's constants, both levels applied, in the warp's own piece of shared memory: of each row from the block with the
// unit's first column on.
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
    const void *absmax;
    const float *absmax2;
    float offset;
    float *own = scales[warp];
    const unsigned char *row0, *row1;
    int row, out;       // of what is read ahead: the tile's first row, the matrix's rows
    // Nothing is read beyond a matrix: rows too far are taken to be the last, and so are columns.
    auto begin_rows = [&]() {
        const Matrix4 &w = all.of[matrix_of(all, first_tile + ahead)];
        row = (first_tile + ahead - w.first_tile) * TILE_ROWS;
        out = w.out;
        row0 = w.packed + (long)min(row + g, out - 1) * in / 2;
        row1 = w.packed + (long)min(row + g + 8, out - 1) * in / 2;
        absmax = w.absmax, absmax2 = w.absmax2, offset = w.absmax2 == nullptr ? 0 : *w.offset;
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
        make_scales(absmax, absmax2, offset, out, row, column, in, log_blocksize, map_values, own);
        // Where in the unit's first blocks rows g and g + 8 begin.
        int o0 = (int)((long)min(row + g, out - 1) * in + column & (1 << log_blocksize) - 1);
        int o1 = (int)((long)min(row + g + 8, out - 1) * in + column & (1 << log_blocksize) - 1);
        __syncwarp();
        bool last = column + UNIT >= in || left == 1;
        if (--to_read > 0) {
            ahead_column += UNIT;
            if (ahead_column >= in) {
                ahead_column = 0;
                ahead++;
                begin_rows();
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
                mma(acc, a, b[i].x, b[i].y);
                unsigned int d[4] = {decode(table, copy, w0[i], 2, s0), decode(table, copy, w1[i], 2, s1),
                        decode(table, copy, w0[i], 3, s0), decode(table, copy, w1[i], 3, s1)};
                mma(more, d, b[i].z, b[i].w);
            }
            if (to_read > 0) {
                read(words[u], u);
            }
        }
        column += UNIT;
        if (last) {
            float *part = part_of(parts, warp, j, m);
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
    write_results(all, parts, first_tile, tiles, m, a_tile, share, nullptr);
}
