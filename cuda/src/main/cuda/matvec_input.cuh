// The input of nf4_matvec_two.cu: rows x [m, in], in bfloat16, brought to shared memory as float16 (exact16.cuh), where the
// layer has one in front after an RMSNorm: round(x * rstd) * weight, rounded as rmsnorm.cu rounds.
//
// Every block does it for itself. It is what a product does between the end of the kernel in front and its first sum, so
// that it counts how long it takes: one pass over x to find its sum of squares and its largest element, another to write it.
#pragma once
#include "exact16.cuh"
#include "nf4_matvec.cuh"

// Rows of x that the kernel takes.
#define MOST_ROWS 2

// Where piece i of a row, eight columns, lies in shared memory: a lane of nf4_matvec_two.cu reads four that follow each other,
// one after another, so that four lanes' are beside each other instead.
__device__ __forceinline__ int x_place(int i) {
    return i & ~15 | (i & 3) << 2 | i >> 2 & 3;
}

struct InputShared {
    float squares[MOST_ROWS][WARPS], factor[MOST_ROWS];
    unsigned int largest[MOST_ROWS][WARPS];
};

// Eight elements of x and of the norm's weight, as they are in memory.
struct Input {
    const uint4 *x, *norm;
    int m, pieces;
    uint4 first, first_weight;

    // The weight is no kernel's result and may be read before the kernel in front has ended.
    __device__ __forceinline__ Input(const bf16 *x, const bf16 *norm, int m, int in)
            : x((const uint4 *)x), norm((const uint4 *)norm), m(m), pieces(in / 8) {
        first = first_weight = make_uint4(0, 0, 0, 0);
        if (norm != nullptr && threadIdx.x < pieces) {
            first_weight = __ldg(this->norm + threadIdx.x);
        }
    }

    // After the kernel in front: asks for what is needed first.
    __device__ __forceinline__ void begin() {
        if (threadIdx.x < pieces) {
            first = x[threadIdx.x];
        }
    }

    __device__ __forceinline__ uint4 piece(int token, int i) const {
        return token == 0 && i < THREADS ? first : x[(long)token * pieces + i];
    }

    __device__ __forceinline__ uint4 weight(int i) const {
        return i < THREADS ? first_weight : __ldg(norm + i);
    }

    // Copies to rows of `x_bytes`; shared.factor is what products are to be multiplied with. Barriers inside.
    __device__ __forceinline__ void copy(float eps, unsigned char *to, int x_bytes, InputShared &shared) const {
        int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
#pragma unroll 1
        for (int token = 0; token < m; token++) {
            float squares = 0, most = 0;
            unsigned int largest = 0;
#pragma unroll 1
            for (int i = threadIdx.x; i < pieces; i += THREADS) {
                uint4 p = piece(token, i);
                if (norm == nullptr) {
                    largest = max(largest, largest_of(p));
                    continue;
                }
                uint4 w = weight(i);
                const unsigned int ps[4] = {p.x, p.y, p.z, p.w}, ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    float l = low_half(ps[k]), h = high_half(ps[k]);
                    squares = __fmaf_rn(l, l, squares);
                    squares = __fmaf_rn(h, h, squares);
                    most = fmaxf(most, fmaxf(fabsf(l * low_half(ws[k])), fabsf(h * high_half(ws[k]))));
                }
            }
            if (norm != nullptr) {
                for (int o = WARP / 2; o > 0; o /= 2) {
                    squares += __shfl_xor_sync(0xffffffff, squares, o);
                }
                largest = __float_as_uint(most);
            }
            largest = __reduce_max_sync(0xffffffff, largest);
            if (lane == 0) {
                shared.squares[token][warp] = squares;
                shared.largest[token][warp] = largest;
            }
        }
        __syncthreads();
#pragma unroll 1
        for (int token = 0; token < m; token++) {
            unsigned int largest = __reduce_max_sync(0xffffffff, shared.largest[token][lane % WARPS]);
            float rstd = 1;
            if (norm != nullptr) {
                // All warps add in the same order.
                float squares = 0;
#pragma unroll
                for (int w = 0; w < WARPS; w++) {
                    squares += shared.squares[token][w];
                }
                rstd = __frsqrt_rn(__fadd_rn(squares / (8 * pieces), eps));
                // A bound of what the norm writes, short of its roundings, for which float16 has room.
                largest = __float_as_uint(__uint_as_float(largest) * rstd) >> 16;
            }
            float f = power(x_exponent(largest));
#pragma unroll 1
            for (int i = threadIdx.x; i < pieces; i += THREADS) {
                uint4 p = piece(token, i), w = norm == nullptr ? p : weight(i);
                unsigned int ps[4] = {p.x, p.y, p.z, p.w};
                const unsigned int ws[4] = {w.x, w.y, w.z, w.w};
#pragma unroll
                for (int k = 0; k < 4; k++) {
                    if (norm != nullptr) {
                        ps[k] = pack_bf16(rounded<bf16>(low_half(ps[k]) * rstd) * low_half(ws[k]),
                                rounded<bf16>(high_half(ps[k]) * rstd) * high_half(ws[k]));
                    }
                    ps[k] = to_f16(ps[k], f);
                }
                *(uint4 *)(to + token * x_bytes + 16 * x_place(i)) = make_uint4(ps[0], ps[1], ps[2], ps[3]);
            }
            if (threadIdx.x == token) {
                shared.factor[token] = power(254 - x_exponent(largest));
            }
        }
        __syncthreads();
    }
};
