// AdamW's constants and its update of one element, in the two formulas of OptimKernels. For kernels that are compiled
// with --fmad=false: every operation is rounded once, in the order written here.
//
// scalars: float64, laid out as in OptimScalars. lrScale, beta1, beta2, epsilon, weightDecay: AdamHyper.
#pragma once

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
