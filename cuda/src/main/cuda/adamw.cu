// options: --fmad=false
// AdamW (Loshchilov and Hutter 2019) on n elements, in place, in the two formulas of OptimKernels: every operation is
// rounded once, in the order written there, so that the bits are those of the other backends.
#include "adamw.cuh"
#include "elements.cuh"

// Four elements a thread in 16-byte pieces (float64: 32 bytes) where all four addresses are multiples of 16.
template <typename Formula, typename T>
__device__ void adamw(T* params, const T* grads, T* expAvg, T* expAvgSq, const double* scalars, const Hyper& hyper,
        i64 n) {
    constexpr int N = 4;
    constexpr int WORDS = N * (int) sizeof(T) / 4;
    __shared__ Constants<T> shared;
    if (threadIdx.x == 0) {
        shared = Formula::template constants<T>(hyper, scalars);
    }
    __syncthreads();
    Constants<T> c = shared;
    bool wide = aligned(params, grads, expAvg, expAvgSq);
    i64 step = (i64) gridDim.x * blockDim.x * N;
    for (i64 i = ((i64) blockIdx.x * blockDim.x + threadIdx.x) * N; i < n; i += step) {
        if (wide && i + N <= n) {
            union {
                unsigned w[WORDS];
                T x[N];
            } p, g, m, v;
            readWords(params + i, p.w);
            readWords(grads + i, g.w);
            readWords(expAvg + i, m.w);
            readWords(expAvgSq + i, v.w);
#pragma unroll
            for (int k = 0; k < N; k++) {
                Formula::update(c, p.x[k], g.x[k], m.x[k], v.x[k]);
            }
            writeWords(params + i, p.w);
            writeWords(expAvg + i, m.w);
            writeWords(expAvgSq + i, v.w);
        } else {
            for (int k = 0; k < N && i + k < n; k++) {
                Formula::update(c, params[i + k], grads[i + k], expAvg[i + k], expAvgSq[i + k]);
            }
        }
    }
}

#define VARIANT(name, suffix, Formula, T)                                                                             \
    extern "C" __global__ void __launch_bounds__(256) adamw_##name##_##suffix(T* params, const T* grads, T* expAvg,   \
            T* expAvgSq, const double* scalars, double lrScale, double beta1, double beta2, double epsilon,           \
            double weightDecay, i64 n) {                                                                              \
        adamw<Formula>(params, grads, expAvg, expAvgSq, scalars,                                                      \
                Hyper{lrScale, beta1, beta2, epsilon, weightDecay}, n);                                               \
    }

VARIANT(torch, f32, Torch, float)
VARIANT(torch, f64, Torch, double)
VARIANT(bitsandbytes, f32, Bitsandbytes, float)
VARIANT(bitsandbytes, f64, Bitsandbytes, double)
