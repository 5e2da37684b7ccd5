// SwiGLU (Shazeer 2020) and its gradient over n elements; see DecoderKernels.
//
//   out = round(silu(gate))*up      silu(x) = x*sigma(x)      sigma(x) = 1/(1 + exp(-x))      (rounded to out's type)
//   dGate = dOut*up*sigma*(1 + gate*(1 - sigma))              dUp = dOut*gate*sigma
//
// dGate and dUp may be gate and up: a thread reads its elements before it writes them.
#include "grid.cuh"
#include "elements.cuh"
#include "sigmoid.cuh"

template <typename T>
__device__ void forward(const T* gate, const T* up, T* out, i64 n) {
    constexpr int N = LANES<T>;
    bool wide = aligned(gate, up, out);
    i64 step = (i64) gridDim.x * blockDim.x * N;
    for (i64 i = ((i64) blockIdx.x * blockDim.x + threadIdx.x) * N; i < n; i += step) {
        float g[N];
        float u[N];
        load(gate, i, n, wide, g);
        load(up, i, n, wide, u);
#pragma unroll
        for (int k = 0; k < N; k++) {
            u[k] *= rounded<T>(g[k] * sigmoid(g[k]));
        }
        store(out, i, n, wide, u);
    }
}

template <typename T>
__device__ void backward(const T* dOut, const T* gate, const T* up, T* dGate, T* dUp, i64 n) {
    constexpr int N = LANES<T>;
    bool wide = aligned(dOut, gate, up, dGate, dUp);
    i64 step = (i64) gridDim.x * blockDim.x * N;
    for (i64 i = ((i64) blockIdx.x * blockDim.x + threadIdx.x) * N; i < n; i += step) {
        float d[N];
        float g[N];
        float u[N];
        load(dOut, i, n, wide, d);
        load(gate, i, n, wide, g);
        load(up, i, n, wide, u);
#pragma unroll
        for (int k = 0; k < N; k++) {
            float sigma = sigmoid(g[k]);
            float slope = 1.0f + g[k] * (1.0f - sigma);
            float x = g[k];
            g[k] = d[k] * u[k] * sigma * slope;
            u[k] = d[k] * x * sigma;
        }
        store(dGate, i, n, wide, g);
        store(dUp, i, n, wide, u);
    }
}

#define VARIANT(suffix, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) swiglu_forward_##suffix(const T* gate, const T* up, T* out,     \
            i64 n) {                                                                                                  \
        next_may_begin();                                                                                             \
        previous_has_ended();                                                                                         \
        forward(gate, up, out, n);                                                                                    \
    }                                                                                                                 \
    extern "C" __global__ void __launch_bounds__(256) swiglu_backward_##suffix(const T* dOut, const T* gate,          \
            const T* up, T* dGate, T* dUp, i64 n) {                                                                   \
        backward(dOut, gate, up, dGate, dUp, n);                                                                      \
    }

VARIANT(f32, float)
VARIANT(bf16, bf16)
