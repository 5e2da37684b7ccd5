// The product of 9 to 64 rows with a 4-bit matrix, on tensor cores: y [m, out] = x [m, in] * dequant(W) [out, in]^T.
// `in` is a multiple of 32.
//
// Rows of W are the rows of the tensor cores' first operand and are decoded in registers; rows of x are the columns of
// the second. A block has 128 rows of W and 8 * tiles rows of x (those from blockIdx.z on); it walks over slabs of 256
// columns, which are copied to shared memory one ahead, W as it is and x in the order in which lanes read it. A warp
// has 32 rows of W and 64 of a slab's columns; the sums of the four warps that share rows are added in order at the
// end. gridDim.y blocks share the columns of a tile; their sums go to `partial` [gridDim.y, m, out] and are added in
// order by nf4_smallm_sum.
#include "decode.cuh"
#include "grid.cuh"
#include "ptx.cuh"

#define THREADS 512
#define ROWS 128
#define WARP_ROWS 32
#define ROW_WARPS (ROWS / WARP_ROWS)
#define SHARES (THREADS / WARP / ROW_WARPS)
#define SLAB (SHARES * 64)
// Columns with the same constant in every layout, since blocks have 32 elements or more; 16 bytes of W.
#define LOG_CHUNK 5
#define CHUNK (1 << LOG_CHUNK)
#define CHUNK_BYTES (CHUNK / 2)
#define CHUNKS (SLAB / CHUNK)
#define CODE_ROW_BYTES (SLAB / 2)
// Sixteen bytes of a row of x.
#define PIECE 8
#define PIECES (SLAB / PIECE)
// Floats from a row's constants to the next row's: a warp then reads 16 banks.
#define SCALE_STRIDE (CHUNKS + 2)
// Floats from a token's sums to the next one's, a little apart to spread the banks.
#define SUM_STRIDE (ROWS + 4)

struct Weights {
    const unsigned char *packed;
    Constants c;
    int out, in, first_row;

    // Chunks before a row; they fit into 32 bits where elements do not.
    __device__ unsigned int chunks_before(int row) const {
        return (unsigned int)min(first_row + row, out - 1) * (in / CHUNK);
    }
};

// What a thread copies of each slab: of W a chunk of two rows, of x a piece of each x_step-th row. In shared memory,
// chunks that four rows have next to each other are in different banks. x lies there as lanes read it: for each share
// of 64 columns, each j of 2 and each tile of 8 rows 16 bytes a lane, which are x[g][16 t + 8 j ..]; lanes of j = 1 are
// in another order, so that writing meets no bank twice.
template <int tiles> struct Copies {
    static const int x_bytes = 8 * tiles * SLAB * 2, stage_bytes = x_bytes + ROWS * CODE_ROW_BYTES;
    static const int w_step = THREADS / CHUNKS, x_step = THREADS / PIECES;
    const unsigned char *codes[2];
    const bf16 *x;
    int w_column, x_column, x_row, codes_to, x_to;

    __device__ Copies(const Weights &w, const bf16 *all_x) {
        int row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        for (int i = 0; i < 2; i++) {
            codes[i] = w.packed + (long)(w.chunks_before(row + i * w_step) + chunk) * CHUNK_BYTES;
        }
        codes_to = x_bytes + row * CODE_ROW_BYTES + (chunk ^ 2 * (row % 4)) * CHUNK_BYTES;
        w_column = chunk * CHUNK;
        int piece = threadIdx.x % PIECES, share = piece / 8, t = piece % 8 / 2, j = piece % 2;
        x_row = threadIdx.x / PIECES;
        x_column = piece * PIECE;
        x = all_x + (long)x_row * w.in + x_column;
        x_to = (((share * 2 + j) * tiles + x_row / 8) * WARP + (x_row % 8 * 4 + t ^ 4 * j)) * 16;
    }

    __device__ void begin(const Weights &w, int m, int column, unsigned char *stage) const {
        bool there = column + w_column < w.in;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const unsigned char *from = there ? codes[i] + column / 2 : w.packed;
            copy16(shared_address(stage + codes_to + i * w_step * CODE_ROW_BYTES), from, there);
        }
        there = column + x_column < w.in;
#pragma unroll
        for (int i = 0; i < tiles * 8 / x_step; i++) {
            bool here = there && x_row + i * x_step < m;
            const void *from = here ? (const void *)(x + column + (long)i * x_step * w.in) : w.packed;
            copy16(shared_address(stage + x_to + i * x_step / 8 * WARP * 16), from, here);
        }
    }
};

// Two of a slab's constants, of row threadIdx.x / 4: read ahead, then both levels applied. Without branches, at whose
// end the loads would be waited for. Columns beyond the last have the constant 0: codes there are the first of the
// table, which times an infinite constant and a zero of x would be NaN.
struct Scales {
    static const int a_row = CHUNKS / 2;
    unsigned int code[2];
    float second[2];

    __device__ static int chunk(int column, int i) {
        return column / CHUNK + (int)threadIdx.x % a_row * 2 + i;
    }

    __device__ void load(const Weights &w, int column) {
        int nested = w.c.absmax2 != nullptr;
        unsigned int before = w.chunks_before(threadIdx.x / a_row);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            unsigned int block = before + min(chunk(column, i), w.in / CHUNK - 1) >> w.c.log_blocksize - LOG_CHUNK;
            const float *first_level = (const float *)w.c.absmax + block;
            second[i] = *(nested ? w.c.absmax2 + (block >> LOG_NESTED_BLOCKSIZE) : first_level);
            asm volatile("{ .reg .pred p; mov.u32 %0, 0; setp.ne.s32 p, %1, 0; @p ld.global.u8 %0, [%2]; }"
                         : "=&r"(code[i]) : "r"(nested), "l"((const unsigned char *)w.c.absmax + block));
        }
    }

    __device__ void store(const Weights &w, int column, float shift, const float *map, float *scales) const {
        float v[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            float nested = __fadd_rn(__fmul_rn(map[code[i]], second[i]), shift);
            v[i] = w.c.absmax2 == nullptr ? second[i] : nested;
            v[i] = chunk(column, i) < w.in / CHUNK ? v[i] : 0;
        }
        *(float2 *)(scales + threadIdx.x / a_row * SCALE_STRIDE + threadIdx.x % a_row * 2) = make_float2(v[0], v[1]);
    }
};

template <int tiles>
__device__ void smallm(const bf16 *x, int m, const Weights &w, const Codebook *codebook, const bf16 *residual,
        const bf16 *bias, bf16 *y, float *partial) {
    const int stage_bytes = Copies<tiles>::stage_bytes;
    extern __shared__ __align__(16) unsigned char block_memory[];
    __shared__ float map[256];
    __shared__ __align__(16) float scales[2][ROWS * SCALE_STRIDE];
    float2 *table = (float2 *)block_memory;
    unsigned char *ring = block_memory + PAIR_TABLE_BYTES;
    int lane = threadIdx.x % WARP, g = lane / 4, t = lane % 4;
    int warp_row = threadIdx.x / WARP % ROW_WARPS * WARP_ROWS, share = threadIdx.x / WARP / ROW_WARPS;
    int all = (w.in + SLAB - 1) / SLAB, a_block = (all + gridDim.y - 1) / gridDim.y;
    int first = blockIdx.y * a_block, slabs = min(all - first, a_block);

    int first_token = blockIdx.z * 8 * tiles, tokens = min(m - first_token, 8 * tiles);
    Copies<tiles> copies(w, x + (long)first_token * w.in);
    copies.begin(w, tokens, first * SLAB, ring);
    copy_commit();
    if (threadIdx.x < 256) {
        map[threadIdx.x] = w.c.absmax2 == nullptr ? 0 : w.c.map[threadIdx.x];
    }
    float shift = w.c.absmax2 == nullptr ? 0 : *w.c.offset;
    Scales next;
    next.load(w, first * SLAB);
    make_pair_table(codebook, table);
    __syncthreads();

    unsigned int own = pair_copy();
    float acc[2][tiles][4] = {};
    for (int slab = 0; slab < slabs; slab++) {
        copy_wait<0>();
        float *constants = scales[slab % 2];
        next.store(w, (first + slab) * SLAB, shift, map, constants);
        // From here on all see this slab, and nobody reads the one before.
        __syncthreads();
        if (slab + 1 < slabs) {
            copies.begin(w, tokens, (first + slab + 1) * SLAB, ring + (slab + 1) % 2 * stage_bytes);
            copy_commit();
        }
        next.load(w, (first + slab + 1) * SLAB);
        const unsigned char *stage = ring + slab % 2 * stage_bytes;
        const uint4 *xs = (const uint4 *)stage + share * 2 * tiles * WARP;
        const unsigned char *codes = stage + Copies<tiles>::x_bytes + (warp_row + g) * CODE_ROW_BYTES
                + ((share * 2 + t / 2) ^ 2 * (g % 4)) * CHUNK_BYTES + t % 2 * 8;
        uint2 words[2][2];
        float scale[2][2];
#pragma unroll
        for (int i = 0; i < 4; i++) {
            words[i / 2][i % 2] = *(const uint2 *)(codes + i * 8 * CODE_ROW_BYTES);
            scale[i / 2][i % 2] = constants[(warp_row + g + 8 * i) * SCALE_STRIDE + share * 2 + t / 2];
        }
#pragma unroll 1
        for (int j = 0; j < 2; j++) {
            unsigned int a[2][2][4];
#pragma unroll
            for (int r = 0; r < 2; r++) {
                unsigned int w0 = j == 0 ? words[r][0].x : words[r][0].y, w1 = j == 0 ? words[r][1].x : words[r][1].y;
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    a[r][h][0] = decode_pair(table, own, w0, 2 * h, scale[r][0]);
                    a[r][h][1] = decode_pair(table, own, w1, 2 * h, scale[r][1]);
                    a[r][h][2] = decode_pair(table, own, w0, 2 * h + 1, scale[r][0]);
                    a[r][h][3] = decode_pair(table, own, w1, 2 * h + 1, scale[r][1]);
                }
            }
#pragma unroll
            for (int i = 0; i < tiles; i++) {
                uint4 b = xs[(j * tiles + i) * WARP + (lane ^ 4 * j)];
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    mma(acc[r][i], a[r][0], b.x, b.y);
                    mma(acc[r][i], a[r][1], b.z, b.w);
                }
            }
        }
    }
    // The shares' sums, [share, token, row], where table and slabs were.
    const int of_share = 8 * tiles * SUM_STRIDE;
    __syncthreads();
    float *sums = (float *)block_memory;
#pragma unroll
    for (int r = 0; r < 2; r++) {
#pragma unroll
        for (int i = 0; i < tiles; i++) {
#pragma unroll
            for (int q = 0; q < 4; q++) {
                int token = 8 * i + 2 * t + q % 2, row = warp_row + 16 * r + g + 8 * (q / 2);
                sums[share * of_share + token * SUM_STRIDE + row] = acc[r][i][q];
            }
        }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tokens * ROWS; i += THREADS) {
        int token = i / ROWS, r = i % ROWS, o = w.first_row + r;
        if (o >= w.out) {
            continue;
        }
        float sum = 0;
#pragma unroll
        for (int s = 0; s < SHARES; s++) {
            sum += sums[s * of_share + token * SUM_STRIDE + r];
        }
        long at = (long)(first_token + token) * w.out + o;
        if (gridDim.y > 1) {
            partial[(long)blockIdx.y * m * w.out + at] = sum;
        } else {
            sum += bias == nullptr ? 0 : to_f32(bias[o]);
            sum += residual == nullptr ? 0 : to_f32(residual[at]);
            y[at] = from_f32<bf16>(sum);
        }
    }
}

#define VARIANT(TILES)                                                                                                 \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) nf4_smallm_##TILES(const bf16 *x, int m,                  \
            const unsigned char *packed, const void *absmax, const float *absmax2, const float *offset,                \
            const float *map, int log_blocksize, const Codebook *codebook, int out, int in, const bf16 *residual,      \
            const bf16 *bias, bf16 *y, float *partial) {                                                               \
        Weights w{packed, {absmax, absmax2, offset, map, log_blocksize}, out, in, (int)blockIdx.x *ROWS};              \
        smallm<TILES>(x, m, w, codebook, residual, bias, y, partial);                                                  \
    }

VARIANT(2)
VARIANT(4)
VARIANT(8)

// y = the sum of `parts` products [m, out] in order, plus residual and bias. It begins early, but does not
// let the next kernel begin: with that, one product after another of 64 rows by 4096 x 14336 took 28.4 us each, not 26.8.
extern "C" __global__ void __launch_bounds__(256) nf4_smallm_sum(const float *partial, int parts, int m, int out,
        const bf16 *residual, const bf16 *bias, bf16 *y) {
    previous_has_ended();
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
