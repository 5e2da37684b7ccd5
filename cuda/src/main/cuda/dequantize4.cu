// options: --fmad=false
//
// Weights of a 4-bit tensor: packed, constants -> out [n], codebook[code] * scale, from the element `begin` on, a multiple
// of 8. Bit-identical with the CPU's.
#include "decode.cuh"
#include "grid.cuh"

// Elements a thread has at a time.
#define PIECE 8

// What a thread has read for a turn, in which it has UNROLL pieces.
template <int UNROLL>
struct Turn {
    unsigned int words[UNROLL];
    RawScale scales[UNROLL];

    __device__ __forceinline__ void load(const unsigned char *packed, const Constants &c, long piece, long step, long pieces) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            long p = piece + u * step;
            if (p < pieces) {
                words[u] = __ldcs((const unsigned int *)packed + p);
                scales[u] = load_scale(c, p * PIECE >> c.log_blocksize);
            }
        }
    }
};

// A thread takes every gridDim.x * blockDim.x-th piece, and reads a turn ahead; then elements that are in no whole piece.
template <int UNROLL, class T>
__device__ void dequantize4(const unsigned char *packed, const Constants &c, const Codebook *codebook, long begin, long n,
        T *out) {
    __shared__ float value[16], map[256];
    long step = (long)gridDim.x * blockDim.x, first = (long)blockIdx.x * blockDim.x + threadIdx.x;
    long pieces = aligned(packed, 4) && aligned(out, 16) ? n / PIECE : begin / PIECE;
    Turn<UNROLL> next;
    next.load(packed, c, begin / PIECE + first, step, pieces);
    float offset = 0;
    if (threadIdx.x < 16) {
        value[threadIdx.x] = codebook->value[threadIdx.x];
    }
    if (c.absmax2 != nullptr) {
        map[threadIdx.x] = c.map[threadIdx.x];
        offset = *c.offset;
    }
    __syncthreads();
    for (long piece = begin / PIECE + first; piece < pieces; piece += UNROLL * step) {
        Turn<UNROLL> turn = next;
        next.load(packed, c, piece + UNROLL * step, step, pieces);
#pragma unroll
        for (int u = 0; u < UNROLL; u++) {
            if (piece + u * step < pieces) {
                float scale = finish_scale(c, map, turn.scales[u], offset), v[PIECE];
#pragma unroll
                for (int i = 0; i < PIECE; i++) {
                    v[i] = value[turn.words[u] >> (i % 2 == 0 ? 4 * i + 4 : 4 * i - 4) & 15] * scale;
                }
                store8(out + (piece + u * step) * PIECE, v);
            }
        }
    }
    for (long e = pieces * PIECE + first; e < n; e += step) {
        int code = packed[e / 2] >> (e % 2 == 0 ? 4 : 0) & 15;
        out[e] = from_f32<T>(value[code] * finish_scale(c, map, load_scale(c, e >> c.log_blocksize), offset));
    }
}

// More is read ahead in the types in which models compute.
#define VARIANT(T, SUFFIX, UNROLL)                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) dequantize4_##SUFFIX(const unsigned char *packed,                \
            const void *absmax, const float *absmax2, const float *offset, const float *map, int log_blocksize,        \
            const Codebook *codebook, long begin, long n, T *out) {                                                    \
        next_may_begin();                                                                                              \
        previous_has_ended();                                                                                          \
        dequantize4<UNROLL>(packed, Constants{absmax, absmax2, offset, map, log_blocksize}, codebook, begin, n, out);  \
    }

VARIANT(f32, f32, 4)
VARIANT(f64, f64, 1)
VARIANT(bf16, bf16, 4)
VARIANT(f16, f16, 1)
