// What gemm_hopper.cu is given, where things lie in shared memory, and the instructions that only it uses.
#pragma once
#include "codebook.cuh"
#include "hopper.cuh"

#define THREADS 384
#define TILE_M 128
#define TILE_N 256
#define STEP 64
#define STAGES 4
#define WRITES (TILE_N / 64)
#define READ_STEPS 4 // of products, while half of a residual is read
#define GATED 1      // bits of Work.gated
#define KEPT 2
#define MOST_PAUSE 6 // steps from one begin of a read of gate and up, or write of their gradients, to the next
#define MOST_TERMS 6
#define MOST_OUTPUTS 3
#define MOST_PARTS 3
#define COPIER_REGISTERS 40
#define REGISTERS 232

// A tensor map of the driver.
struct alignas(64) Map {
    u64 words[16];
};

struct Term {
    Map a, b;
    int steps, shift; // of STEP columns; of B's columns (nt): what is outside of B is zero
    int unused[14];
};

struct Output {
    Map c, residual;                 // residual may be C
    const bf16 *bias;                // [n], or null; nt only
    int n, firstTerm, terms, adds;   // its terms are firstTerm .. firstTerm + terms - 1; whether there is a residual
    int unused[10];
};

// Pieces of eight elements of a tensor with nested constants, which another launch multiplies with; `out` is where its
// first element goes.
struct Part {
    const u32 *packed;
    const unsigned char *absmax;
    const float *absmax2, *offset;
    bf16 *out;
    u32 first, last;
};

struct Work {
    Term terms[MOST_TERMS];
    Output outputs[MOST_OUTPUTS];
    Part parts[MOST_PARTS];
    const Codebook *codebook;    // of all parts, as map and blocksize are
    const float *map;
    int log_blocksize, dequantized; // parts
    int m, count, columns, band; // outputs; tiles of 256 columns of all; pairs of row tiles of a band
    int gated;                   // nt: count is 1, and up's terms, with A of gate's, are behind gate's
};

// Shared memory, from a multiple of 1024 bytes on.
struct At {
    static constexpr int A_BYTES = TILE_M * STEP * 2, B_BYTES = TILE_N * STEP * 2, STAGE = A_BYTES + B_BYTES,
                         OUT = STAGES * STAGE, OUT_BYTES = 64 * 64 * 2, FULL = OUT + 4 * OUT_BYTES, EMPTY = FULL + 8 * STAGES,
                         READ = EMPTY + 8 * STAGES, VALUES = FULL + 128, MAP = VALUES + 16 * 4;
};

#define F128S(d) F64S(d), F8(d, 64), F8(d, 72), F8(d, 80), F8(d, 88), F8(d, 96), F8(d, 104), F8(d, 112), F8(d, 120)
#define D128                                                                                                              \
    D64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, %80, %81, %82, %83, "          \
        "%84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, "        \
        "%104, %105, %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, "    \
        "%122, %123, %124, %125, %126, %127"

// c[64, 256] = a[64, 16]·b (+ c where `add`), both in shared memory; b [256, 16] or, TRANSPOSED, [16, 256].
template <int TRANSPOSED>
__device__ __forceinline__ void wgmma256(float (&c)[128], u64 a, u64 b, bool add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {" D128 "}, %128, %129, add, 1, 1, 0, %131;\n}"
                 : F128S(c)
                 : "l"(a), "l"(b), "r"((int) add), "n"(TRANSPOSED));
}

__device__ __forceinline__ u32 cluster_rank() {
    u32 r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

__device__ __forceinline__ void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Arrives at the barrier at the same place in a block of the cluster.
__device__ __forceinline__ void barrier_arrive_at(u32 barrier, u32 rank) {
    asm volatile("{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier), "r"(rank)
                 : "memory");
}

// A box of a matrix, at column x and row y, to shared memory.
__device__ __forceinline__ void copy_box(u32 to, const Map& map, int x, int y, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(to),
                 "l"(&map), "r"(x), "r"(y), "r"(barrier)
                 : "memory");
}

// The same to both blocks of the cluster.
__device__ __forceinline__ void copy_box_to_both(u32 to, const Map& map, int x, int y, u32 barrier) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%2, %3}], "
                 "[%4], %5;" ::"r"(to),
                 "l"(&map), "r"(x), "r"(y), "r"(barrier), "h"((unsigned short) 3)
                 : "memory");
}

__device__ __forceinline__ void store_box(const Map& map, int x, int y, u32 from) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%1, %2}], [%3];\n"
                 "cp.async.bulk.commit_group;" ::"l"(&map),
                 "r"(x), "r"(y), "r"(from)
                 : "memory");
}

// Waits until all but the last `pending` stores have read shared memory.
template <int pending>
__device__ __forceinline__ void stores_have_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(pending) : "memory");
}

__device__ __forceinline__ void store_matrices(u32 to, u32 a, u32 b, u32 c, u32 d) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b), "r"(c), "r"(d)
                 : "memory");
}
