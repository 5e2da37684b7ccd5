// Cross-entropy of rows of logits [K, V] and, in place, its gradient; see DecoderKernels.
//
//   nll[i] = log(sum(exp(logits[i]))) - logits[i][label]        loss += scale*nll[i], row after row
//   logits[i] = scale*(softmax(logits[i]) - onehot(label))      a row with label -100: nll 0, gradient 0
//
// A block a row. One pass finds maximum and sum together (the sum is scaled when the maximum grows: Milakov and
// Gimelshein 2018), a second, which finds the row in the second-level cache, writes the gradient.
#include "block.cuh"
#include "elements.cuh"
#include "fault.cuh"

constexpr int IGNORED = -100;
constexpr int N = LANES<float>;
// Pieces of N logits that a thread reads before it looks at them.
constexpr int PIECES = 4;

// A scalar that may be float32 or float64.
__device__ inline double element(const void* p, int isDouble, i64 i) {
    return isDouble ? ((const double*) p)[i] : ((const float*) p)[i];
}

// The largest of the thread's logits and the sum of exp(logit - largest).
__device__ void sumOfExponentials(const float* row, int v, bool wide, float& largest, float& sum) {
    for (int from = threadIdx.x * N; from < v; from += blockDim.x * N * PIECES) {
        float x[PIECES][N];
        float most = largest;
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
            int i = from + p * blockDim.x * N;
            if (wide && i + N <= v) {
                load(row, i, v, true, x[p]);
            } else {
#pragma unroll
                for (int k = 0; k < N; k++) {
                    x[p][k] = i + k < v ? row[i + k] : LOWEST;
                }
            }
        }
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
#pragma unroll
            for (int k = 0; k < N; k++) {
                most = fmaxf(most, x[p][k]);
            }
        }
        if (most > largest) {
            sum *= expf(largest - most);
            largest = most;
        }
#pragma unroll
        for (int p = 0; p < PIECES; p++) {
#pragma unroll
            for (int k = 0; k < N; k++) {
                // -infinity minus itself, where all were so far, is not a number; a NaN among the logits stays one.
                sum += x[p][k] == LOWEST ? 0.0f : expf(x[p][k] - most);
            }
        }
    }
}

__device__ void writeGradient(float* row, int v, bool wide, float largest, float factor, int label, float scale) {
    for (int i = threadIdx.x * N; i < v; i += blockDim.x * N) {
        float x[N];
        load(row, i, v, wide, x);
#pragma unroll
        for (int k = 0; k < N; k++) {
            x[k] = expf(x[k] - largest) * factor;
            x[k] = i + k == label ? x[k] - scale : x[k];
        }
        store(row, i, v, wide, x);
    }
}

extern "C" __global__ void __launch_bounds__(1024) cross_entropy_rows_f32(float* logits, const int* labels,
        const void* scale, void* nll, int v, int scaleIsDouble, int nllIsDouble, int gradient, int4* faults) {
    __shared__ float shared[WARP];
    __shared__ double sums[WARP];
    int row = blockIdx.x;
    int label = labels[row];
    float* x = logits + (i64) row * v;
    bool wide = aligned(x);
    double loss = 0;
    bool trained = label >= 0 && label < v;
    float largest = LOWEST;
    float factor = 0;
    float step = 0;
    if (trained) {
        float sum = 0;
        sumOfExponentials(x, v, wide, largest, sum);
        float most = overBlock<Largest>(largest, shared);
        sum = largest == LOWEST ? sum : sum * expf(largest - most);
        double total = blockSum((double) sum, sums);
        double target = x[label];
        double s = element(scale, scaleIsDouble, 0);
        loss = (double) most - target + log(total);
        largest = most;
        factor = (float) (s / total);
        step = (float) s;
    } else if (label != IGNORED) {
        loss = __longlong_as_double(0x7ff8000000000000);
        if (threadIdx.x == 0) {
            report(faults, BAD_LABEL, row, label, v);
        }
    }
    if (threadIdx.x == 0) {
        if (nllIsDouble) {
            ((double*) nll)[row] = loss;
        } else {
            ((float*) nll)[row] = (float) loss;
        }
    }
    if (gradient == 0) {
        return;
    }
    // No thread may write a gradient before all have read the label's logit.
    __syncthreads();
    if (trained) {
        writeGradient(x, v, wide, largest, factor, label, step);
    } else {
        float zero[N] = {};
        for (int i = threadIdx.x * N; i < v; i += blockDim.x * N) {
            store(x, i, v, wide, zero);
        }
    }
}

// loss += scale*nll[i] for i = 0 .. k - 1 in this order, each product and each sum rounded once. One block.
extern "C" __global__ void __launch_bounds__(256) cross_entropy_loss(const void* scale, const void* nll, double* loss,
        int k, int scaleIsDouble, int nllIsDouble) {
    __shared__ double terms[256];
    double s = element(scale, scaleIsDouble, 0);
    double sum = *loss;
    for (int from = 0; from < k; from += 256) {
        int i = from + threadIdx.x;
        terms[threadIdx.x] = i < k ? __dmul_rn(s, element(nll, nllIsDouble, i)) : 0;
        __syncthreads();
        if (threadIdx.x == 0) {
            int n = min(256, k - from);
            for (int j = 0; j < n; j++) {
                sum = __dadd_rn(sum, terms[j]);
            }
        }
        __syncthreads();
    }
    if (threadIdx.x == 0) {
        *loss = sum;
    }
}
