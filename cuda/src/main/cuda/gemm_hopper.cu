// targets: 90a
// Sums of bfloat16 products for compute capability 9.0a, with float32 sums: for each of up to three outputs
//
//   C [m, n] = sum over terms of A [m, k]·op(B) + residual + bias        op(B): B [n, k]ᵀ (nt) or B [k, n] (nn)
//
// (bias in nt only), so that W and an adapter, or the layers that took the same x, are one product, and no partial result goes to memory.
//
// With `gated`, SwiGLU (swiglu.cu) is made of the finished outputs. nt: a tile has 64 columns of gate, the same of up, and
// 64 more of each; they are outputs 0 and 1, which are written only if kept, and output 2 is silu(gate)*up. nn: the product
// is the gradient of that, and is not written; residuals 0 and 1 are gate and up, outputs 0 and 1 their gradients, which
// may be in the same place.
//
// Two blocks (a cluster) make 256 x 256 outputs, one 128 rows each. One warp copies steps of 64 columns of A and B to a
// ring in shared memory by the copy engine; each block fetches half of B for both. Two warpgroups multiply, 64 rows each.
// Terms follow each other in the ring, so nothing but the copies knows of them. Clusters go through the outputs in
// bands of rows, down a column of tiles first, so that a band of A stays in the L2 cache.
#include "gemm_hopper_outputs.cuh"
#include "gemm_hopper_parts.cuh"
#include "grid.cuh"

// A pair of row tiles and a tile of columns of an output.
struct Tile {
    int output = 0, row = 0, column = 0, steps = 0; // row: of the pair's first; steps of all its terms
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
        bool gated = NT && w.gated;
        int column = gated ? t.column / 2 + rank * 64 : t.column + rank * (TILE_N / 2);
        for (int i = 0; i < o.terms; i++) {
            const Term& term = w.terms[o.firstTerm + i];
            for (int step = 0; step < term.steps; step++) {
                barrier_wait(base + At::EMPTY + 8 * at.slot, at.parity ^ 1);
                u32 full = base + At::FULL + 8 * at.slot, stage = base + at.slot * At::STAGE;
                u32 half = stage + At::A_BYTES + rank * (At::B_BYTES / 2);
                barrier_expect(full, At::STAGE);
                copy_box(stage, term.a, step * STEP, t.row + rank * TILE_M, full);
                if (gated) {
                    const Term& up = w.terms[o.firstTerm + o.terms + i];
                    copy_box_to_both(half, term.b, step * STEP - term.shift, column, full);
                    copy_box_to_both(half + At::B_BYTES / 4, up.b, step * STEP - up.shift, column, full);
                } else if (NT) {
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

template <bool NT>
__device__ __forceinline__ void products(const Work& w, u32 base, u32 rank) {
    int group = threadIdx.x / 128 - 1, index = blockIdx.x / 2;
    Ring<STAGES> at;
    Tile t;
    Outputs outputs(base, group);
    int writes = outputs.writes<NT>(w.gated), written = writes;
    for (bool more = t.find(w, index);;) {
        const Output& o = w.outputs[t.output];
        int steps = more ? t.steps : 0, column = t.column, row = t.row + rank * TILE_M + group * 64;
        int pause = !NT && w.gated ? min(steps / writes, MOST_PAUSE) : 1;
        // Where there are too few steps to write meanwhile, or none, steps come before them whose products nobody uses: so
        // what is written, and how, is in one place of the code, and the compiler sees products under way all the time.
        bool brief = steps <= WRITES + 2 * READ_STEPS;
        float sums[128];
        for (int step = brief ? written - writes : 0; step < steps; step++) {
            if (step >= 0) {
                barrier_wait(base + At::FULL + 8 * at.slot, at.parity);
            }
            u32 stage = base + at.slot * At::STAGE;
            u32 left = matrix(stage + group * 64 * 128), right = matrix(stage + At::A_BYTES, NT ? 0 : At::B_BYTES / 4);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < STEP / 16; k++) {
                wgmma256<NT ? 0 : 1>(sums, descriptor(left + k * 2), descriptor(right + k * (NT ? 2 : 128)), step > 0 || k > 0);
            }
            wgmma_commit();
            if (written < writes) {
                if (brief || step >= written * pause) {
                    outputs.write<NT>(w.gated, written++);
                }
            } else if (o.adds && (!brief || step == 0)) {
                outputs.read_residual(o, row, column, steps - 1 - step, brief);
            }
            wgmma_wait<1>();
            if (step > 0) {
                slot_read(base, at.slot == 0 ? STAGES - 1 : at.slot - 1);
            }
            if (step >= 0) {
                at.next();
            }
        }
        wgmma_wait<0>();
        hold(sums);
        if (steps == 0) {
            break;
        }
        slot_read(base, at.slot == 0 ? STAGES - 1 : at.slot - 1);
        index += gridDim.x / 2;
        more = t.find(w, index);
        outputs.set<NT>(o, row, column, sums);
        written = 0;
    }
    if (outputs.first) {
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
        barrier_init(base + At::READ, 1);
        barrier_init(base + At::READ + 8, 1);
        barriers_made();
    }
    cluster_sync();
    next_may_begin();
    previous_has_ended();
    if (threadIdx.x < 128) {
        fewer_registers<COPIER_REGISTERS>();
        if (threadIdx.x == 0) {
            copies<NT>(w, base, rank);
        } else if (threadIdx.x >= WARP) {
            dequantize_parts(w, base);
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
