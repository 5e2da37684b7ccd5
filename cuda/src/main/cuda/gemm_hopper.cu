// targets: 90a
// Sums of bfloat16 products for compute capability 9.0a, with float32 sums: for each of up to three outputs
//
//   C [m, n] = sum over terms of A [m, k]·op(B) + residual + bias        op(B): B [n, k]ᵀ (nt) or B [k, n] (nn)
//
// so that W and an adapter, or the layers that took the same x, are one product, and no partial result goes to memory.
//
// Two blocks (a cluster) make 256 x 256 outputs, one 128 rows each. One warp copies steps of 64 columns of A and B to a
// ring in shared memory by the copy engine; each block fetches half of B for both. Two warpgroups multiply, 64 rows each.
// Terms follow each other in the ring, so nothing but the copies knows of them. Clusters go through the outputs in
// bands of rows, down a column of tiles first, so that a band of A stays in the L2 cache.
#include "hopper.cuh"

#define THREADS 384
#define TILE_M 128
#define TILE_N 256
#define STEP 64
#define STAGES 4
#define WRITES (TILE_N / 64)
#define MOST_TERMS 6
#define MOST_OUTPUTS 3
#define COPIER_REGISTERS 40
#define REGISTERS 232

// A tensor map of the driver.
struct alignas(64) Map {
    u64 words[16];
};

struct Term {
    Map a, b;
    int steps; // of STEP columns
    int unused[15];
};

struct Output {
    Map c;
    const bf16 *residual, *bias; // [m, n], [n]; may be null; residual may be C
    int n, firstTerm, terms;     // its terms are firstTerm .. firstTerm + terms - 1
    int unused[9];
};

struct Work {
    Term terms[MOST_TERMS];
    Output outputs[MOST_OUTPUTS];
    int m, count, columns, band; // outputs; tiles of 256 columns of all; pairs of row tiles of a band
};

// Shared memory, from a multiple of 1024 bytes on.
struct At {
    static constexpr int A_BYTES = TILE_M * STEP * 2, B_BYTES = TILE_N * STEP * 2, STAGE = A_BYTES + B_BYTES,
                         OUT = STAGES * STAGE, OUT_BYTES = 64 * 64 * 2, FULL = OUT + 4 * OUT_BYTES, EMPTY = FULL + 8 * STAGES,
                         BYTES = EMPTY + 8 * STAGES;
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

// A pair of row tiles and a tile of columns of an output.
struct Tile {
    int output, row, column, steps; // row: of the pair's first; steps of all its terms
    __device__ __forceinline__ bool find(const Work& w, int index) {
        int pairs = (w.m + 2 * TILE_M - 1) / (2 * TILE_M);
        if (index >= pairs * w.columns) {
            return false;
        }
        int band = index / (w.band * w.columns), rest = index % (w.band * w.columns);
        int height = min(w.band, pairs - band * w.band), at = rest / height;
        row = (band * w.band + rest % height) * 2 * TILE_M;
        output = 0;
        for (int tiles; output < w.count - 1 && at >= (tiles = (w.outputs[output].n + TILE_N - 1) / TILE_N); output++) {
            at -= tiles;
        }
        column = at * TILE_N;
        steps = 0;
        for (int i = 0; i < w.outputs[output].terms; i++) {
            steps += w.terms[w.outputs[output].firstTerm + i].steps;
        }
        return true;
    }
};

template <bool NT>
__device__ __forceinline__ void copies(const Work& w, u32 base, u32 rank) {
    Ring<STAGES> at;
    Tile t;
    for (int index = blockIdx.x / 2; t.find(w, index); index += gridDim.x / 2) {
        const Output& o = w.outputs[t.output];
        int column = t.column + rank * (TILE_N / 2);
        for (int i = 0; i < o.terms; i++) {
            const Term& term = w.terms[o.firstTerm + i];
            for (int step = 0; step < term.steps; step++) {
                barrier_wait(base + At::EMPTY + 8 * at.slot, at.parity ^ 1);
                u32 full = base + At::FULL + 8 * at.slot, stage = base + at.slot * At::STAGE;
                u32 half = stage + At::A_BYTES + rank * (At::B_BYTES / 2);
                barrier_expect(full, At::STAGE);
                copy_box(stage, term.a, step * STEP, t.row + rank * TILE_M, full);
                if (NT) {
                    copy_box_to_both(half, term.b, step * STEP, column, full);
                } else {
                    copy_box_to_both(half, term.b, column, step * STEP, full);
                    copy_box_to_both(half + At::B_BYTES / 4, term.b, column + 64, step * STEP, full);
                }
                at.next();
            }
        }
    }
}

// A slot's readers tell both blocks that copy to it.
__device__ __forceinline__ void slot_read(u32 base, int slot) {
    if (threadIdx.x % 128 < 2) {
        barrier_arrive_at(base + At::EMPTY + 8 * slot, threadIdx.x % 128);
    }
}

// A warpgroup's finished 64 x 256 outputs, rounded: what a lane holds of them is written while the next tile's products run.
struct Finished {
    u32 pairs[64];
    const Output *output = nullptr;
    int row, column;

    // Of the output: the lane's rows (`row` of the warpgroup) and columns, pair by pair, from where C or the residual lies.
    template <class F>
    __device__ __forceinline__ void each(const Output& o, int m, int row, int column, F f) {
        int own = row + threadIdx.x / 32 % 4 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
        for (int i = 0; i < 64; i++) {
            int x = column + i / 2 * 8 + threadIdx.x % 4 * 2, y = own + i % 2 * 8;
            f(i, y < m && x < o.n, (long long) y * o.n + x, x);
        }
    }

    // Begins to read what is added to a tile.
    __device__ __forceinline__ void prefetch(const Output& o, int m, int row, int column) {
        if (o.residual != nullptr) {
            each(o, m, row, column, [&](int i, bool there, long long at, int x) {
                pairs[i] = there ? *(const u32 *) (o.residual + at) : 0;
            });
        }
    }

    __device__ __forceinline__ void set(const Output& o, int m, int row, int column, float (&sums)[128]) {
        if (o.bias != nullptr) {
            each(o, m, row, column, [&](int i, bool there, long long at, int x) {
                u32 v = x < o.n ? *(const u32 *) (o.bias + x) : 0;
                sums[2 * i] += low_half(v);
                sums[2 * i + 1] += high_half(v);
            });
        }
        if (o.residual != nullptr) {
#pragma unroll
            for (int i = 0; i < 64; i++) {
                sums[2 * i] += low_half(pairs[i]);
                sums[2 * i + 1] += high_half(pairs[i]);
            }
        }
#pragma unroll
        for (int i = 0; i < 64; i++) {
            pairs[i] = pack_bf16(sums[2 * i], sums[2 * i + 1]);
        }
        output = &o;
        this->row = row;
        this->column = column;
    }

    // Writes 64 columns by way of shared memory.
    template <int C>
    __device__ __forceinline__ void store(u32 out) {
        if (column + C * 64 >= output->n) {
            return;
        }
        int group = threadIdx.x / 128, lane = threadIdx.x % 32, line = threadIdx.x / 32 % 4 * 16 + lane % 16;
        u32 tile = out + C % 2 * At::OUT_BYTES;
        if (threadIdx.x % 128 == 0) {
            stores_have_read<1>();
        }
        sync_threads(group, 128);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 *p = pairs + C * 16 + i * 4;
            store_matrices(tile + line * 128 + ((2 * i + lane / 16 ^ line % 8) << 4), p[0], p[1], p[2], p[3]);
        }
        fence_async();
        sync_threads(group, 128);
        if (threadIdx.x % 128 == 0) {
            store_box(output->c, column + C * 64, row, tile);
        }
    }

    __device__ __forceinline__ void store(u32 out, int step) {
        if (step == 0) {
            store<0>(out);
        } else if (step == 1) {
            store<1>(out);
        } else if (step == 2) {
            store<2>(out);
        } else {
            store<3>(out);
        }
    }
};

template <bool NT>
__device__ __forceinline__ void products(const Work& w, u32 base, u32 rank) {
    int group = threadIdx.x / 128 - 1;
    u32 out = base + At::OUT + group * 2 * At::OUT_BYTES;
    Ring<STAGES> at;
    Tile t;
    Finished finished;
    int index = blockIdx.x / 2;
    for (bool more = t.find(w, index); more;) {
        const Output& o = w.outputs[t.output];
        int steps = t.steps, column = t.column, row = t.row + rank * TILE_M + group * 64;
        int written = finished.output == nullptr ? WRITES : 0;
        while (steps <= WRITES && written < WRITES) {
            finished.store(out, written++);
        }
        int reading = max(steps - 8, min(steps - 1, WRITES));
        float sums[128];
        for (int step = 0; step < steps; step++) {
            barrier_wait(base + At::FULL + 8 * at.slot, at.parity);
            u32 stage = base + at.slot * At::STAGE;
            u32 left = matrix(stage + group * 64 * 128), right = matrix(stage + At::A_BYTES, NT ? 0 : At::B_BYTES / 4);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < STEP / 16; k++) {
                wgmma256<NT ? 0 : 1>(sums, descriptor(left + k * 2), descriptor(right + k * (NT ? 2 : 128)), step > 0 || k > 0);
            }
            wgmma_commit();
            if (written < WRITES) {
                finished.store(out, written++);
            }
            if (step == reading) {
                finished.prefetch(o, w.m, row, column);
                index += gridDim.x / 2;
                more = t.find(w, index);
            }
            if (step > 0) {
                wgmma_wait<1>();
                slot_read(base, at.slot == 0 ? STAGES - 1 : at.slot - 1);
            }
            at.next();
        }
        wgmma_wait<0>();
        hold(sums);
        slot_read(base, at.slot == 0 ? STAGES - 1 : at.slot - 1);
        finished.set(o, w.m, row, column, sums);
    }
    for (int i = 0; i < WRITES && finished.output != nullptr; i++) {
        finished.store(out, i);
    }
    if (threadIdx.x % 128 == 0) {
        stores_have_read<0>();
    }
}

template <bool NT>
__device__ __forceinline__ void gemm(const Work& w) {
    extern __shared__ __align__(1024) char memory[];
    u32 base = (u32) __cvta_generic_to_shared(memory) + 1023 & ~1023u, rank = cluster_rank();
    if (threadIdx.x == 0) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(base + At::FULL + 8 * i, 1);
            barrier_init(base + At::EMPTY + 8 * i, 4);
        }
        barriers_made();
    }
    cluster_sync();
    if (threadIdx.x < 128) {
        fewer_registers<COPIER_REGISTERS>();
        if (threadIdx.x == 0) {
            copies<NT>(w, base, rank);
        }
    } else {
        more_registers<REGISTERS>();
        products<NT>(w, base, rank);
    }
    // The other block may still copy to this one, or arrive at its barriers.
    __syncthreads();
    cluster_sync();
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1)
    gemm_hopper_nt(const __grid_constant__ Work w) {
    gemm<true>(w);
}

extern "C" __global__ void __cluster_dims__(2, 1, 1) __launch_bounds__(THREADS, 1)
    gemm_hopper_nn(const __grid_constant__ Work w) {
    gemm<false>(w);
}
