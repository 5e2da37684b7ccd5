// targets: 90a
//
// The product of 9 to 64 rows with a 4-bit matrix as smallm.cu has it, by wgmma: y [m, out] = x [m, in] * W [out, in]^T,
// where constants are quantized too, in blocks of 64, and `in` is a multiple of 256: QLoRA's own configuration.
//
// As in nf4_matvec_wide.cu, constants are multiplied with the sums of 64 columns in float32, so that of W only the codebook
// is rounded, to float16, and x is brought to float16 exactly.
//
//   nf4_smallm_x      x as float16 -> image [in / 64, tokens, 64], the tokens beyond m zeros; factor [tokens]
//   nf4_smallm_N_h    N tokens of the image; a block has 128 rows of W, sums of blockIdx.y's columns go to `partial`
//   nf4_smallm_64_helped  64 tokens; W has fewer tiles of 128 rows than there are multiprocessors: the others help
//
// `helpers` blocks in front of the tiles' owners have the last `given` units of columns of all tiles, a helper those of
// each helpers-th tile. Their sums go to `partial` [tile, warp], in the lanes' own order; a helper's warp says in `arrived`
// [helper, warp] that all of its are there, and owners add them last. A helper has less to do than an owner, so that nobody
// waits for long, and owners come behind all helpers, so that nobody waits for what cannot begin. The loop that goes on in
// the next tile takes 0.9 us of 25 more, so that blocks without helpers have one of their own.
//
// A chunk of the image, 64 columns of all tokens, is what wgmma takes as its second operand: rows of 128 bytes in the
// 128-byte swizzle, columns in the order in which lanes have them as the first (nf4_units.cuh). It is copied to shared
// memory a unit of columns at a time. W is decoded in registers. Both kernels begin early: the second reads W while the
// first runs.
//
// A slot of the ring of units of x has two barriers. `full` ends a phase when the unit's bytes are there; its one arrival
// is the asking thread's. `empty` ends one when all warps have multiplied with the unit, each arrives once. Unit u is in
// slot u % X_STAGES, in phase u / X_STAGES of both; the first units find their slots empty without waiting. Behind unit u
// thread 0 asks for unit u + X_STAGES - 1, in the slot of unit u - 1: its last reader is rarely a whole unit behind, so
// that thread 0, and with it its warpgroup, hardly waits. The copy engine writes x and the tensor cores read it, both by
// the asynchronous proxy: no fence is needed, nor when sums take the place of x, since by then all products are done and
// all units have come.
#include "grid.cuh"
#include "hopper.cuh"
#include "nf4_units.cuh"

#define WARPS 8
#define THREADS (WARPS * WARP)
#define ROWS (WARPS * TILE_ROWS)
// Units of W that a warp asks for ahead, units of x that a block does.
#define STAGES 2
#define X_STAGES 3
static_assert(WARPS * STAGES <= MOST_UNITS, "units lie in the table's gaps");
static_assert(THREADS == 256, "a thread copies one value of the constants' map");
// Floats from a token's sums to the next one's, a little apart to spread the banks.
#define SUM_STRIDE (ROWS + 4)
static_assert(SUM_STRIDE * sizeof(float) <= X_STAGES * UNIT * sizeof(bf16), "a token's sums take the place of its x");

// Copies bytes that follow each other; the barrier's phase ends when they are there.
__device__ __forceinline__ void copy_bulk(u32 to, const void *from, int bytes, u32 barrier) {
    barrier_expect(barrier, bytes);
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
                 ::"r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

// c[64, N] = a[64, 16]·b[N, 16]ᵀ (+ c where `add`); a in registers as in mma.sync, b by its descriptor.
__device__ __forceinline__ void wgmma(float (&c)[8], const u32 (&a)[4], u64 b, int add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %13, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n16k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7}, "
                 "{%8, %9, %10, %11}, %12, add, 1, 1, 0;\n}"
                 : F8(c, 0) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void wgmma(float (&c)[16], const u32 (&a)[4], u64 b, int add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %21, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.f16.f16 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, "
                 "%12, %13, %14, %15}, {%16, %17, %18, %19}, %20, add, 1, 1, 0;\n}"
                 : F8(c, 0), F8(c, 8) : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

__device__ __forceinline__ void wgmma(float (&c)[32], const u32 (&a)[4], u64 b, int add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %37, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" D32 "}, {%32, %33, %34, %35}, %36, add, 1, 1, 0;\n}"
                 : F32S(c)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(add));
}

// As above, b by the low half of its descriptor: registers are scarce where blocks help.
__device__ __forceinline__ void wgmma(float (&c)[32], const u32 (&a)[4], u32 b, int add) {
    asm volatile("{\n.reg .pred add;\n.reg .b64 b;\nsetp.ne.b32 add, %37, 0;\nmov.b64 b, {%36, 0x40000040};\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" D32 "}, {%32, %33, %34, %35}, b, add, 1, 1, 0;\n}"
                 : F32S(c)
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b), "r"(add));
}

// total += scale * sums, by rows g and g + 8.
template <int N> __device__ __forceinline__ void add(float (&total)[N], float (&sums)[N], float scale0, float scale1) {
    hold(sums);
#pragma unroll
    for (int i = 0; i < N; i++) {
        total[i] = __fmaf_rn(i / 2 % 2 == 0 ? scale0 : scale1, sums[i], total[i]);
    }
}

// Four sums plus four bfloat16.
__device__ __forceinline__ float4 plus(float4 v, uint2 b) {
    return make_float4(v.x + low_half(b.x), v.y + high_half(b.x), v.z + low_half(b.y), v.w + high_half(b.y));
}

// A block a token. `image` as above; in a chunk, 16 bytes u of a row, at u ^ row % 8, are columns 16 t + 2 u and the next
// for t = 0 to 3. The first `flags` of `arrived` become 0.
extern "C" __global__ void __launch_bounds__(512) nf4_smallm_x(const bf16 *x, int m, int in, unsigned char *image,
        float *factor, u32 *arrived, int flags) {
    __shared__ u32 largest;
    next_may_begin();
    int token = blockIdx.x, tokens = gridDim.x;
    if (threadIdx.x == 0) {
        largest = 0;
    }
    __syncthreads();
    previous_has_ended();
    int flag = token * blockDim.x + threadIdx.x;
    if (flag < flags) {
        arrived[flag] = 0;
    }
    const bf16 *row = x + (long)token * in;
    u32 most = 0;
    if (token < m) {
        for (int i = threadIdx.x; i < in / 8; i += blockDim.x) {
            most = max(most, largest_of(((const uint4 *)row)[i]));
        }
        most = __reduce_max_sync(0xffffffff, most);
        if (threadIdx.x % WARP == 0) {
            atomicMax(&largest, most);
        }
    }
    __syncthreads();
    int exponent = x_exponent(largest);
    if (threadIdx.x == 0) {
        factor[token] = power(254 - exponent);
    }
    float f = power(exponent);
    for (int i = threadIdx.x; i < in / 8; i += blockDim.x) {
        int chunk = i / 8, u = i % 8;
        u32 to[4] = {0, 0, 0, 0};
        if (token < m) {
#pragma unroll
            for (int t = 0; t < 4; t++) {
                to[t] = to_f16(*(const u32 *)(row + chunk * CHUNK + 16 * t + 2 * u), f);
            }
        }
        *(uint4 *)(image + ((long)chunk * tokens + token) * 128 + (u ^ token % 8) * 16)
                = make_uint4(to[0], to[1], to[2], to[3]);
    }
}

// That what this thread, and its warp before a barrier, wrote to device memory can be read by who sees the flag.
__device__ __forceinline__ void says_arrived(u32 *flag) {
    asm volatile("st.release.gpu.global.u32 [%0], 1;" ::"l"(flag) : "memory");
}

__device__ __forceinline__ void wait_for(const u32 *flag) {
    u32 there;
    do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(there) : "l"(flag) : "memory");
    } while (there == 0);
}

// Where a lane's sums of a tile lie from its helper to its owner: pieces of four, WARP apart.
template <int N> __device__ __forceinline__ float4 *given_sums(float *partial, int tile) {
    return (float4 *)partial + (long)(tile * WARPS + threadIdx.x / WARP) * (N / 8) * WARP + threadIdx.x % WARP;
}

// `arrived`, `helpers` and `given` only where HELPED.
template <int N, bool HELPED>
__device__ __forceinline__ void smallm(const unsigned char *image, const float *factor, int m,
        const unsigned char *packed, const Constants &c, const Codebook *codebook, int out, int in, const bf16 *residual,
        const bf16 *bias, bf16 *y, float *partial, u32 *arrived, int helpers, int given) {
    const int chunk_bytes = N * 128, unit_bytes = CHUNKS * chunk_bytes;
    extern __shared__ __align__(1024) unsigned char block_memory[];
    __shared__ float map[256];
    __shared__ float factors[N];
    __shared__ __align__(8) u64 barriers[2 * X_STAGES];
    unsigned char *xs = block_memory, *table = xs + X_STAGES * unit_bytes, *constants = table + TABLE_BYTES;
    next_may_begin();
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, g = lane / 4, t = lane % 4;
    int all = in / UNIT, a_block = (all + gridDim.y - 1) / gridDim.y, first = blockIdx.y * a_block;
    int units = min(all - first, a_block), run = units, tile = blockIdx.x;
    const bool helps = HELPED && (int)blockIdx.x < helpers;
    if (HELPED) {
        // The block's units: `run` of `tile` from `first` on, and those of each helpers-th tile behind where it helps.
        tile = helps ? blockIdx.x : blockIdx.x - helpers;
        first = helps ? all - given : 0;
        run = all - first - (helps ? 0 : given);
        units = helps ? ((out / ROWS - 1 - tile) / helpers + 1) * run : run;
    }
    u32 full = shared_address(barriers), empty = full + 8 * X_STAGES;
    if (threadIdx.x == 0) {
        for (int s = 0; s < X_STAGES; s++) {
            barrier_init(full + 8 * s, 1);
            barrier_init(empty + 8 * s, WARPS);
        }
        barriers_made();
    }
    Source source;
    // A helper's columns go on in the next of its tiles: `out` is a multiple of ROWS where there are helpers.
    int asked = 0, column = first * UNIT, left = run;
    const int next_tile = helpers * ROWS * in - run * UNIT;
    auto ask = [&](int place) {
        if (asked < units) {
            source.request(Place(table, constants, warp * STAGES + place),
                    HELPED ? column : (first + asked) * UNIT);
        }
        asked++;
        column += UNIT;
        if (HELPED && --left == 0) {
            left = run;
            column += next_tile;
        }
        copy_commit();
    };
    source.begin(packed, c, out, in, tile * ROWS + warp * TILE_ROWS);
    for (int s = 0; s < STAGES; s++) {
        ask(s);
    }
    map[threadIdx.x] = c.map[threadIdx.x];
    PairTable<THREADS>(codebook).write(table);
    __syncthreads();
    previous_has_ended();
    if (threadIdx.x < N) {
        factors[threadIdx.x] = factor[threadIdx.x];
    }
    int x_unit = first;
    auto copy_x = [&](int u) {
        int s = u % X_STAGES;
        copy_bulk(shared_address(xs) + s * unit_bytes, image + (long)(HELPED ? x_unit : first + u) * unit_bytes, unit_bytes,
                full + 8 * s);
        x_unit = x_unit + 1 == first + run ? first : x_unit + 1;
    };
    for (int u = 0; threadIdx.x == 0 && u < min(units, X_STAGES); u++) {
        copy_x(u);
    }
    float total[N / 2] = {}, acc[2][N / 2];
    int place = 0, to_give = run;
    Ring<X_STAGES> ring;
    for (int u = 0; u < units; u++) {
        // Each unit has a group of copies, be it empty: those of this one are through, for all lanes.
        copy_wait<STAGES - 1>();
        __syncwarp();
        Unit unit;
        unit.take(Place(table, constants, warp * STAGES + place), map, source.offset);
        ask(place);
        place ^= 1;
        u32 low = matrix(shared_address(xs) + ring.slot * unit_bytes);
        const auto b = [&] {
            if constexpr (HELPED) {
                return low;
            } else {
                return descriptor(low);
            }
        }();
        // A chunk is decoded while the one before is multiplied.
        u32 a[2][4][4];
        auto decode_chunk = [&](int chunk) {
            const uint2 w0 = unit.words[chunk][0], w1 = unit.words[chunk][1];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                u32 u0 = k < 2 ? w0.x : w0.y, u1 = k < 2 ? w1.x : w1.y;
                u32 (&to)[4] = a[chunk % 2][k];
                to[0] = decode(table, 4 * lane, u0, k % 2 * 2);
                to[1] = decode(table, 4 * lane, u1, k % 2 * 2);
                to[2] = decode(table, 4 * lane, u0, k % 2 * 2 + 1);
                to[3] = decode(table, 4 * lane, u1, k % 2 * 2 + 1);
            }
        };
        decode_chunk(0);
        barrier_wait(full + 8 * ring.slot, ring.parity);
#pragma unroll
        for (int chunk = 0; chunk < CHUNKS; chunk++) {
            hold(acc[chunk % 2]);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < 4; k++) {
                wgmma(acc[chunk % 2], a[chunk % 2][k], b + (chunk * chunk_bytes >> 4) + k * 2, k > 0);
            }
            wgmma_commit();
            if (chunk + 1 < CHUNKS) {
                decode_chunk(chunk + 1);
            }
            if (chunk > 0) {
                wgmma_wait<1>();
                add(total, acc[(chunk + 1) % 2], unit.scale(chunk - 1, 0), unit.scale(chunk - 1, 1));
            }
        }
        wgmma_wait<0>();
        add(total, acc[1], unit.scale(CHUNKS - 1, 0), unit.scale(CHUNKS - 1, 1));
        if (lane == 0) {
            barrier_arrive(empty + 8 * ring.slot);
        }
        // The slot of the unit before, which the others have left by now or soon will, is filled again.
        if (threadIdx.x == 0 && u > 0 && u - 1 + X_STAGES < units) {
            barrier_wait(empty + 8 * ((u - 1) % X_STAGES), (u - 1) / X_STAGES & 1);
            copy_x(u - 1 + X_STAGES);
        }
        ring.next();
        if (__builtin_expect(helps && --to_give == 0, 0)) {
            float4 *to = given_sums<N>(partial, tile);
#pragma unroll
            for (int i = 0; i < N / 2; i += 4) {
                __stcg(to + i / 4 * WARP, make_float4(total[i], total[i + 1], total[i + 2], total[i + 3]));
                total[i] = total[i + 1] = total[i + 2] = total[i + 3] = 0;
            }
            to_give = run;
            tile += helpers;
        }
    }
    if (helps) {
        __syncwarp();
        if (lane == 0) {
            says_arrived(arrived + blockIdx.x * WARPS + warp);
        }
        return;
    }
    if (HELPED) {
        wait_for(arrived + tile % helpers * WARPS + warp);
        const float4 *from = given_sums<N>(partial, tile);
#pragma unroll
        for (int i = 0; i < N / 2; i += 4) {
            float4 v = __ldcg(from + i / 4 * WARP);
            total[i] += v.x, total[i + 1] += v.y, total[i + 2] += v.z, total[i + 3] += v.w;
        }
    }
    // Sums [token, row], where x was.
    __syncthreads();
    float *sums = (float *)block_memory;
#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        int token = i / 4 * 8 + 2 * t + i % 2, row = warp * TILE_ROWS + g + i / 2 % 2 * 8;
        sums[token * SUM_STRIDE + row] = total[i];
    }
    __syncthreads();
    // Four rows at a time: `out` is a multiple of 4.
#pragma unroll 2
    for (int i = threadIdx.x; i < m * (ROWS / 4); i += THREADS) {
        int token = i / (ROWS / 4), r = i % (ROWS / 4) * 4, o = tile * ROWS + r;
        if (o < out) {
            float4 v = *(const float4 *)(sums + token * SUM_STRIDE + r);
            float f = factors[token];
            long at = (long)token * out + o;
            v = make_float4(v.x * f, v.y * f, v.z * f, v.w * f);
            if (!HELPED && gridDim.y > 1) {
                *(float4 *)(partial + (long)blockIdx.y * m * out + at) = v;
            } else {
                v = plus(v, bias == nullptr ? make_uint2(0, 0) : *(const uint2 *)(bias + o));
                v = plus(v, residual == nullptr ? make_uint2(0, 0) : *(const uint2 *)(residual + at));
                *(uint2 *)(y + at) = make_uint2(pack_bf16(v.x, v.y), pack_bf16(v.z, v.w));
            }
        }
    }
}

#define VARIANT(TOKENS)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS, 1) nf4_smallm_##TOKENS##_h(const unsigned char *image,       \
            const float *factor, int m, const unsigned char *packed, const void *absmax, const float *absmax2,         \
            const float *offset, const float *map, int log_blocksize, const Codebook *codebook, int out, int in,       \
            const bf16 *residual, const bf16 *bias, bf16 *y, float *partial) {                                         \
        smallm<TOKENS, false>(image, factor, m, packed, {absmax, absmax2, offset, map, log_blocksize}, codebook, out,  \
                in, residual, bias, y, partial, nullptr, 0, 0);                                                        \
    }

VARIANT(16)
VARIANT(32)
VARIANT(64)

extern "C" __global__ void __launch_bounds__(THREADS, 1) nf4_smallm_64_helped(const unsigned char *image,
        const float *factor, int m, const unsigned char *packed, const void *absmax, const float *absmax2,
        const float *offset, const float *map, int log_blocksize, const Codebook *codebook, int out, int in,
        const bf16 *residual, const bf16 *bias, bf16 *y, float *partial, u32 *arrived, int helpers, int given) {
    smallm<64, true>(image, factor, m, packed, {absmax, absmax2, offset, map, log_blocksize}, codebook, out, in, residual,
            bias, y, partial, arrived, helpers, given);
}
