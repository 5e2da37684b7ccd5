// The product of 9 to 64 rows with a 4-bit matrix, on tensor cores: y [m, out] = x [m, in] * dequant(W) [out, in]^T.
// `in` is a multiple of 32.
//
// Rows of W are the rows of the tensor cores' first operand and are decoded in registers; rows of x are the columns of
// the second. A block has 128 rows of W: four warps of 32 each. It has KGROUPS such groups of warps, which take turns
// with the slabs of 128 columns; each group copies its slabs of x into shared memory, in the order in which lanes read
// them, one slab ahead. At the end the groups' sums are added in order. gridDim.y blocks share the columns of a tile;
// their sums go to `partial` [gridDim.y, m, out] and are added in order by nf4_smallm_sum.
#include "decode.cuh"
#include "mma.cuh"

#define WARP 32
#define SLAB 128
#define WARP_ROWS 32
#define GROUP_WARPS 4
#define GROUP_THREADS (GROUP_WARPS * WARP)
#define KGROUPS 4
#define BLOCK_ROWS (WARP_ROWS * GROUP_WARPS)

// A slab of x [8 * tiles, SLAB]. For each j of 4 and each tile of 8 rows: 16 bytes a lane, which are x[g][32 t + 8 j ..]
template <int tiles>
__device__ void copy_slab(const bf16 *x, int m, int in, int column, uint4 *slab, int thread) {
    for (int i = thread; i < tiles * 8 * (SLAB / 8); i += GROUP_THREADS) {
        int row = i / (SLAB / 8), piece = i % (SLAB / 8), t = piece / 4, j = piece % 4;
        bool there = row < m && column + 8 * piece < in;
        const bf16 *source = there ? x + (long)row * in + column + 8 * piece : x;
        copy_async(slab + (j * tiles + row / 8) * WARP + row % 8 * 4 + t, source, there);
    }
}

struct Codes {
    uint4 words[2][2];
    RawScale scales[2][2];
};

// For two tiles of 16 rows: 32 codes of row g and 32 of row g + 8, from column 32 t of the slab on.
__device__ void load_codes(Codes &codes, const unsigned char *packed, const Constants &c, int out, int in, int row,
        int column) {
    int lane = threadIdx.x % WARP;
    column += 32 * (lane % 4);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        codes.words[i / 2][i % 2] = make_uint4(0, 0, 0, 0);
        codes.scales[i / 2][i % 2] = RawScale{0, 0};
        if (column < in) {
            long e = (long)min(row + 8 * i + lane / 4, out - 1) * in + column;
            codes.words[i / 2][i % 2] = load_once(packed + e / 2);
            codes.scales[i / 2][i % 2] = load_scale(c, e >> c.log_blocksize);
        }
    }
}

__device__ unsigned int word_of(const uint4 &v, int j) {
    return j == 0 ? v.x : j == 1 ? v.y : j == 2 ? v.z : v.w;
}

template <int tiles>
__device__ void smallm(const bf16 *x, int m, const unsigned char *packed, const Constants &c, const Codebook *codebook,
        int out, int in, const bf16 *residual, const bf16 *bias, bf16 *y, float *partial) {
    extern __shared__ __align__(16) unsigned char dynamic_shared[];
    float2 *table = (float2 *)dynamic_shared;
    const int slab_words = 4 * tiles * WARP;
    int lane = threadIdx.x % WARP, group = threadIdx.x / GROUP_THREADS, thread = threadIdx.x % GROUP_THREADS;
    int row = blockIdx.x * BLOCK_ROWS + thread / WARP * WARP_ROWS;
    uint4 *slabs = (uint4 *)(dynamic_shared + PAIR_TABLE_BYTES) + group * 2 * slab_words;
    int all = (in + SLAB - 1) / SLAB, share = (all + gridDim.y - 1) / gridDim.y;
    int first = blockIdx.y * share, end = min(all, first + share);
    Codes next;
    load_codes(next, packed, c, out, in, row, (first + group) * SLAB);
    copy_slab<tiles>(x, m, in, (first + group) * SLAB, slabs, thread);
    copies_begun();
    float shift = c.absmax2 == nullptr ? 0 : *c.offset;
    make_pair_table(codebook, table);
    __syncthreads();
    unsigned int copy = pair_copy();
    float acc[2][tiles][4] = {};
    int parity = 0;
    for (int slab = first + group; slab < end; slab += KGROUPS, parity ^= 1) {
        // The other slab was read in the turn before.
        barrier(1 + group, GROUP_THREADS);
        copy_slab<tiles>(x, m, in, (slab + KGROUPS) * SLAB, slabs + (parity ^ 1) * slab_words, thread);
        copies_begun();
        copies_arrived<1>();
        barrier(1 + group, GROUP_THREADS);
        float scale[2][2];
        uint4 words[2][2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            scale[i / 2][i % 2] = finish_scale(c, next.scales[i / 2][i % 2], shift);
            words[i / 2][i % 2] = next.words[i / 2][i % 2];
        }
        load_codes(next, packed, c, out, in, row, (slab + KGROUPS) * SLAB);
        const uint4 *xs = slabs + parity * slab_words + lane;
#pragma unroll
        for (int j = 0; j < 4; j++) {
            unsigned int a[2][2][4];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                unsigned int w0 = word_of(words[r][0], j), w1 = word_of(words[r][1], j);
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    a[r][h][0] = decode_pair(table, copy, w0, 2 * h, scale[r][0]);
                    a[r][h][1] = decode_pair(table, copy, w1, 2 * h, scale[r][1]);
                    a[r][h][2] = decode_pair(table, copy, w0, 2 * h + 1, scale[r][0]);
                    a[r][h][3] = decode_pair(table, copy, w1, 2 * h + 1, scale[r][1]);
                }
            }
#pragma unroll
            for (int i = 0; i < tiles; i++) {
                uint4 b = xs[(j * tiles + i) * WARP];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    mma_bf16(acc[r][i], a[r][0], b.x, b.y);
                    mma_bf16(acc[r][i], a[r][1], b.z, b.w);
                }
            }
        }
    }
    // The groups' sums, in turns through shared memory: [token, row], a row more to spread the banks.
    const int stride = BLOCK_ROWS + 4;
    copies_arrived<0>();
    float *sums = (float *)(dynamic_shared + PAIR_TABLE_BYTES);
    for (int turn = 0; turn < KGROUPS; turn++) {
        __syncthreads();
        if (group == turn) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
#pragma unroll
                for (int i = 0; i < tiles; i++) {
#pragma unroll
                    for (int q = 0; q < 4; q++) {
                        int at = (8 * i + 2 * (lane % 4) + q % 2) * stride + thread / WARP * WARP_ROWS + 16 * r
                                + lane / 4 + 8 * (q / 2);
                        sums[at] = turn == 0 ? acc[r][i][q] : sums[at] + acc[r][i][q];
                    }
                }
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < 8 * tiles * BLOCK_ROWS; i += blockDim.x) {
        int token = i / BLOCK_ROWS, r = i % BLOCK_ROWS, o = blockIdx.x * BLOCK_ROWS + r;
        if (token >= m || o >= out) {
            continue;
        }
        float sum = sums[token * stride + r];
        long at = (long)token * out + o;
        if (gridDim.y > 1) {
            partial[((long)blockIdx.y * m) * out + at] = sum;
        } else {
            sum += bias == nullptr ? 0 : to_f32(bias[o]);
            sum += residual == nullptr ? 0 : to_f32(residual[at]);
            y[at] = from_f32<bf16>(sum);
        }
    }
}

#define VARIANT(TILES)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(KGROUPS *GROUP_THREADS, 1) nf4_smallm_##TILES(const bf16 *x, int m,   \
            const unsigned char *packed, const void *absmax, const float *absmax2, const float *offset,                \
            const float *map, int log_blocksize, const Codebook *codebook, int out, int in, const bf16 *residual,      \
            const bf16 *bias, bf16 *y, float *partial) {                                                               \
        smallm<TILES>(x, m, packed, Constants{absmax, absmax2, offset, map, log_blocksize}, codebook, out, in,         \
                residual, bias, y, partial);                                                                           \
    }

VARIANT(2)
VARIANT(4)
VARIANT(8)

// y = the sum of `parts` products [m, out] in order, plus residual and bias.
extern "C" __global__ void __launch_bounds__(256) nf4_smallm_sum(const float *partial, int parts, int m, int out,
        const bf16 *residual, const bf16 *bias, bf16 *y) {
    long at = (long)blockIdx.x * blockDim.x + threadIdx.x, n = (long)m * out;
    if (at >= n) {
        return;
    }
    float sum = 0;
    for (int p = 0; p < parts; p++) {
        sum += partial[p * n + at];
    }
    sum += bias == nullptr ? 0 : to_f32(bias[at % out]);
    sum += residual == nullptr ? 0 : to_f32(residual[at]);
    y[at] = from_f32<bf16>(sum);
}
