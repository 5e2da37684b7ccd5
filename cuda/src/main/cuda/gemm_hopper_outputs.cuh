// What becomes of a tile's sums in gemm_hopper.cu.
#pragma once
#include "gemm_hopper.cuh"

// 1/(1 + exp(-x)) within 2^-20 of it: what is made of it is rounded to bfloat16.
__device__ __forceinline__ float approximate_sigmoid(float x) {
    float e, r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(x * -1.44269504f));
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(1 + e));
    return r;
}

// Of pairs of elements.
__device__ __forceinline__ u32 swiglu(u32 gate, u32 up) {
    float g = low_half(gate), h = high_half(gate);
    u32 silu = pack_bf16(g * approximate_sigmoid(g), h * approximate_sigmoid(h));
    return pack_bf16(low_half(silu) * low_half(up), high_half(silu) * high_half(up));
}

__device__ __forceinline__ void swiglu_backward(float d, float& gate, float& up) {
    float g = gate, sigma = approximate_sigmoid(g);
    gate = d * up * sigma * (1 + g * (1 - sigma));
    up = d * g * sigma;
}

// A warpgroup's 64 x 256 outputs: of a finished tile, rounded, which are written while the next one's products run, then
// what is added to that one. Both go by way of two boxes of 64 x 64 in shared memory.
struct Outputs {
    u32 pairs[64]; // of the lane, as the sums lie
    const Output *output = nullptr;
    int row, column, parity = 0;
    u32 boxes, read; // addresses of the boxes, and of the barrier of what is read
    bool first;      // thread of the warpgroup

    __device__ __forceinline__ Outputs(u32 base, int group)
        : boxes(base + At::OUT + group * 2 * At::OUT_BYTES), read(base + At::READ + group * 8), first(threadIdx.x % 128 == 0) {
    }

    __device__ __forceinline__ void sync() {
        sync_threads(threadIdx.x / 128, 128);
    }

    // Where lanes give the address of a row of four 8 x 8 matrices: columns 16i on of a box.
    __device__ __forceinline__ u32 matrices(u32 box, int i) {
        u32 thread = fresh(threadIdx.x % 128), line = thread / 32 * 16 + thread % 16;
        return box + line * 128 + ((2 * i + thread / 16 % 2 ^ line % 8) << 4);
    }

    // Begins to read half of what is added to a tile.
    __device__ __forceinline__ void begin_read(const Output& o, int row, int column) {
        if (first) {
            stores_have_read<0>();
            barrier_expect(read, 2 * At::OUT_BYTES);
            copy_box(boxes, o.residual, column, row, read);
            copy_box(boxes + At::OUT_BYTES, o.residual, column + 64, row, read);
        }
    }

    template <int HALF>
    __device__ __forceinline__ void end_read() {
        barrier_wait(read, parity);
        parity ^= 1;
#pragma unroll
        for (int i = 0; i < 8; i++) {
            u32 p[4];
            load_matrices(p, matrices(boxes + i / 4 * At::OUT_BYTES, i % 4));
#pragma unroll
            for (int j = 0; j < 4; j++) {
                pairs[HALF * 32 + i * 4 + j] = p[j];
            }
        }
        // Or the copy engine overwrites what a warp has asked for and not got yet.
        fence_async();
        sync();
    }

    // What is to be done about the residual when `left` steps are left after the one that was begun; `all`: at once.
    __device__ __forceinline__ void read_residual(const Output& o, int row, int column, int left, bool all) {
        if (left == 2 * READ_STEPS || all) {
            begin_read(o, row, column);
        }
        if (left == READ_STEPS || all) {
            end_read<0>();
            begin_read(o, row, column + TILE_N / 2);
        }
        if (left == 0 || all) {
            end_read<1>();
        }
    }

    template <bool NT>
    __device__ __forceinline__ void set(const Output& o, int row, int column, float (&sums)[128]) {
        if (NT && o.bias != nullptr) {
#pragma unroll
            for (int i = 0; i < 32; i++) {
                int x = column + i * 8 + threadIdx.x % 4 * 2;
                u32 v = x < o.n ? *(const u32 *) (o.bias + x) : 0;
                sums[4 * i] += low_half(v), sums[4 * i + 1] += high_half(v);
                sums[4 * i + 2] += low_half(v), sums[4 * i + 3] += high_half(v);
            }
        }
        if (o.adds) {
#pragma unroll
            for (int i = 0; i < 64; i++) {
                sums[2 * i] += low_half(pairs[i]), sums[2 * i + 1] += high_half(pairs[i]);
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

    // Writes the pairs from `From` on to 64 columns.
    template <int From>
    __device__ __forceinline__ void write(const Output& o, int x, u32 box) {
        if (x >= o.n) {
            return;
        }
        if (first) {
            stores_have_read<1>();
        }
        sync();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 *p = pairs + From + i * 4;
            store_matrices(matrices(box, i), p[0], p[1], p[2], p[3]);
        }
        fence_async();
        sync();
        if (first) {
            store_box(o.c, x, row, box);
        }
    }

    // Begins to read 64 columns of gate and up.
    __device__ __forceinline__ void begin_gates(int x) {
        if (first && x < output->n) {
            stores_have_read<0>();
            barrier_expect(read, 2 * At::OUT_BYTES);
            copy_box(boxes, output[0].residual, x, row, read);
            copy_box(boxes + At::OUT_BYTES, output[1].residual, x, row, read);
        }
    }

    // Puts their gradients in their places and writes them.
    __device__ __forceinline__ void write_gates(int x, u32 (&d)[16]) {
        if (x >= output->n) {
            return;
        }
        barrier_wait(read, parity);
        parity ^= 1;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            u32 gate[4], up[4], at = matrices(boxes, i);
            load_matrices(gate, at);
            load_matrices(up, at + At::OUT_BYTES);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                float g = low_half(gate[j]), h = high_half(gate[j]), u = low_half(up[j]), v = high_half(up[j]);
                swiglu_backward(low_half(d[i * 4 + j]), g, u);
                swiglu_backward(high_half(d[i * 4 + j]), h, v);
                gate[j] = pack_bf16(g, h);
                up[j] = pack_bf16(u, v);
            }
            store_matrices(at, gate[0], gate[1], gate[2], gate[3]);
            store_matrices(at + At::OUT_BYTES, up[0], up[1], up[2], up[3]);
        }
        fence_async();
        sync();
        if (first) {
            store_box(output[0].c, x, row, boxes);
            store_box(output[1].c, x, row, boxes + At::OUT_BYTES);
        }
    }

    // How often `write` is called for a tile.
    template <bool NT>
    __device__ __forceinline__ int writes(int gated) {
        return !gated ? WRITES : !NT || gated & KEPT ? 2 * WRITES : WRITES;
    }

    // Quarters of gated outputs are gate, up, gate, up. If kept: gate, up, and what is made of them in gate's place.
    template <int Half>
    __device__ __forceinline__ void write_gated(int step) {
        int x = column / 2 + Half * 64;
        if (step == 0) {
            write<Half * 32>(output[0], x, boxes + Half * At::OUT_BYTES);
        } else if (step == 1) {
            write<Half * 32 + 16>(output[1], x, boxes + (Half ^ 1) * At::OUT_BYTES);
        } else if (step == 2) {
#pragma unroll
            for (int i = Half * 32; i < Half * 32 + 16; i++) {
                pairs[i] = swiglu(pairs[i], pairs[16 + i]);
            }
        } else {
            write<Half * 32>(output[2], x, boxes + Half * At::OUT_BYTES);
        }
    }

    template <int Q>
    __device__ __forceinline__ void quarter(u32 (&to)[16]) {
#pragma unroll
        for (int i = 0; i < 16; i++) {
            to[i] = pairs[Q * 16 + i];
        }
    }

    template <bool NT>
    __device__ __forceinline__ void write(int gated, int n) {
        if (NT && gated) {
            int half = gated & KEPT ? n / 4 : n / 2, step = gated & KEPT ? n % 4 : n % 2 + 2;
            if (half == 0) {
                write_gated<0>(step);
            } else {
                write_gated<1>(step);
            }
        } else if (!NT && gated) {
            int x = column + n / 2 * 64;
            if (n % 2 == 0) {
                begin_gates(x);
                return;
            }
            u32 d[16];
            if (n == 1) {
                quarter<0>(d);
            } else if (n == 3) {
                quarter<1>(d);
            } else if (n == 5) {
                quarter<2>(d);
            } else {
                quarter<3>(d);
            }
            write_gates(x, d);
        } else {
            u32 box = boxes + n % 2 * At::OUT_BYTES;
            if (n == 0) {
                write<0>(*output, column, box);
            } else if (n == 1) {
                write<16>(*output, column + 64, box);
            } else if (n == 2) {
                write<32>(*output, column + 128, box);
            } else {
                write<48>(*output, column + 192, box);
            }
        }
    }
};
