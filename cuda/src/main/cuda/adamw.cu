// options: --fmad=false
// AdamW (Loshchilov and Hutter 2019) on n elements, in place, in the two formulas of OptimKernels: every operation is
// rounded once, in the order written there, so that the bits are those of the other backends.
//
// scalars: float64, laid out as in OptimScalars. lrScale, beta1, beta2, epsilon, weightDecay: AdamHyper.
#include "elements.cuh"

constexpr int LEARNING_RATE = 0;
constexpr int CORRECTION1 = 1;
constexpr int CORRECTION2 = 2;
constexpr int CLIP_SCALE = 6;

struct Hyper {
    double lrScale;
    double beta1;
    double beta2;
    double epsilon;
    double weightDecay;
};

// AdamConstants: what elements are multiplied by, rounded to their type.
template <typename T>
struct Constants {
    T beta1;
    T oneMinusBeta1;
    T beta2;
    T oneMinusBeta2;
    T stepSize;
    T correction2;
    T epsilon;
    T decay;
    T gradScale;
};

struct Torch {
    template <typename T>
    __device__ static Constants<T> constants(const Hyper& h, const double* scalars) {
        double lr = scalars[LEARNING_RATE] * h.lrScale;
        Constants<T> c;
        c.beta1 = (T) h.beta1;
        c.oneMinusBeta1 = (T) (1 - h.beta1);
        c.beta2 = (T) h.beta2;
        c.oneMinusBeta2 = (T) (1 - h.beta2);
        c.stepSize = (T) -(lr / scalars[CORRECTION1]);
        c.correction2 = (T) scalars[CORRECTION2];
        c.epsilon = (T) h.epsilon;
        c.decay = (T) (1 - lr * h.weightDecay);
        c.gradScale = (T) scalars[CLIP_SCALE];
        return c;
    }

    template <typename T>
    __device__ static void update(const Constants<T>& c, T& p, T g, T& m, T& v) {
        g = g * c.gradScale;
        p = p * c.decay;
        m = m + c.oneMinusBeta1 * (g - m);
        v = v * c.beta2 + c.oneMinusBeta2 * (g * g);
        p = p + c.stepSize * (m / (sqrt(v) / c.correction2 + c.epsilon));
    }
};

struct Bitsandbytes {
    template <typename T>
    __device__ static Constants<T> constants(const Hyper& h, const double* scalars) {
        T lr = (T) (scalars[LEARNING_RATE] * h.lrScale);
        T c1 = (T) scalars[CORRECTION1];
        Constants<T> c;
        c.beta1 = (T) h.beta1;
        c.oneMinusBeta1 = (T) 1 - c.beta1;
        c.beta2 = (T) h.beta2;
        c.oneMinusBeta2 = (T) 1 - c.beta2;
        c.correction2 = (T) scalars[CORRECTION2];
        c.stepSize = -lr * c.correction2 / c1;
        c.epsilon = (T) h.epsilon * c.correction2;
        c.decay = (T) 1 - lr * (T) h.weightDecay;
        c.gradScale = (T) scalars[CLIP_SCALE];
        return c;
    }

    template <typename T>
    __device__ static void update(const Constants<T>& c, T& p, T g, T& m, T& v) {
        g = g * c.gradScale;
        m = m * c.beta1 + c.oneMinusBeta1 * g;
        v = v * c.beta2 + c.oneMinusBeta2 * g * g;
        p = p + c.stepSize * (m / (sqrt(v) + c.epsilon));
        p = p * c.decay;
    }
};

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
