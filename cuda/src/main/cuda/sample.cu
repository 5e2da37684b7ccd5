// The choice of the next token of each row of logits [B, V], in double, as TokenSampler makes it: repetition penalty,
// then the largest score, or temperature, top-k, top-p and a draw. A block a row, its scores in global memory.
//
// Differs from TokenSampler only in the order of sums of exponentials, by some 1e-14 of the sum: the same token unless
// a draw, or the edge of top-p's mass, falls so close to the border between two tokens.
#include "block.cuh"
#include "elements.cuh"
#include "fault.cuh"
#include "philox.cuh"

constexpr int THREADS = 1024;
constexpr unsigned PURPOSE = 0x53414d50;
constexpr u64 INFINITY_BITS = 0x7ff0000000000000;

struct Work {
    double sums[THREADS];
    int counts[THREADS];
    double total;
    int kept;
    int first;
    int last;
};

// The largest score of all threads and its token, the first among equals. Every thread gives its best.
__device__ void largestOfBlock(Work& w, double& score, int& token) {
    w.sums[threadIdx.x] = score;
    w.counts[threadIdx.x] = token;
    __syncthreads();
    for (int half = THREADS / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) {
            double other = w.sums[threadIdx.x + half];
            int its = w.counts[threadIdx.x + half];
            bool better = other > w.sums[threadIdx.x] || other == w.sums[threadIdx.x] && its < w.counts[threadIdx.x];
            if (better) {
                w.sums[threadIdx.x] = other;
                w.counts[threadIdx.x] = its;
            }
        }
        __syncthreads();
    }
    score = w.sums[0];
    token = w.counts[0];
    __syncthreads();
}

__device__ double sumOfBlock(Work& w, double x) {
    return blockSum(x, w.sums);
}

// The sum of what the threads before this one give, in the order of threads, and the sum of all.
__device__ double sumBefore(Work& w, double x, double& total) {
    w.sums[threadIdx.x] = x;
    __syncthreads();
    if (threadIdx.x == 0) {
        double sum = 0;
#pragma unroll 8
        for (int t = 0; t < THREADS; t++) {
            double next = sum + w.sums[t];
            w.sums[t] = sum;
            sum = next;
        }
        w.total = sum;
    }
    __syncthreads();
    double before = w.sums[threadIdx.x];
    total = w.total;
    __syncthreads();
    return before;
}

// Scores as unsigned numbers of the same order. For top-k, scores from -infinity to 0; for top-p, from 0 to 1.
struct Count {
    __device__ static u64 key(double s) {
        return INFINITY_BITS - (u64) __double_as_longlong(fabs(s));
    }
    __device__ static double weight(double) {
        return 1;
    }
};

struct Mass {
    __device__ static u64 key(double p) {
        return (u64) __double_as_longlong(p);
    }
    __device__ static double weight(double p) {
        return p;
    }
};

// The largest key T such that the weights of the keys from T on sum to at least goal; 0 if all together do not.
// Bisection: T is known to all bits above bit b; [T, T + 2^(b+1)) holds it. It ends early when one key is left there.
template <typename By>
__device__ u64 threshold(Work& w, const double* scores, int v, double goal) {
    u64 low = 0;
    for (int b = 62; b >= 0; b--) {
        u64 middle = low + (1ull << b);
        u64 high = middle + (1ull << b);
        double sum = 0;
        int upper = 0;
        int lower = 0;
        u64 one[2] = {0, 0};
        for (int i = threadIdx.x; i < v; i += THREADS) {
            double s = scores[i];
            u64 key = By::key(s);
            if (key >= middle) {
                sum += By::weight(s);
                upper += key < high ? 1 : 0;
                one[1] = key < high ? key : one[1];
            } else if (key >= low) {
                lower++;
                one[0] = key;
            }
        }
        sum = sumOfBlock(w, sum);
        bool up = sum >= goal;
        low = up ? middle : low;
        int mine = up ? upper : lower;
        int left = __syncthreads_count(mine == 1) + 2 * __syncthreads_count(mine > 1);
        if (left == 0) {
            return 0;
        }
        if (left == 1) {
            if (mine == 1) {
                w.sums[0] = __longlong_as_double((i64) one[up ? 1 : 0]);
            }
            __syncthreads();
            u64 found = (u64) __double_as_longlong(w.sums[0]);
            __syncthreads();
            return found;
        }
    }
    return low;
}

// Drops scores smaller than the k-th largest; equals of that stay.
__device__ void keepTopK(Work& w, double* scores, int v, int k) {
    u64 least = threshold<Count>(w, scores, v, k);
    for (int i = threadIdx.x; i < v; i += THREADS) {
        if (Count::key(scores[i]) < least) {
            scores[i] = LOWEST;
        }
    }
    __syncthreads();
}

// Drops each probability that those larger than it leave no room for below mass; among equals the first tokens stay.
__device__ void keepTopP(Work& w, double* scores, int v, double mass) {
    u64 least = threshold<Mass>(w, scores, v, mass);
    double value = __longlong_as_double((i64) least);
    int chunk = (v + THREADS - 1) / THREADS;
    int from = min(v, (int) threadIdx.x * chunk);
    int to = min(v, from + chunk);
    double above = 0;
    double equals = 0;
    for (int i = from; i < to; i++) {
        above += scores[i] > value ? scores[i] : 0;
        equals += scores[i] == value ? 1 : 0;
    }
    above = sumOfBlock(w, above);
    double all;
    double rank = sumBefore(w, equals, all);
    if (threadIdx.x == 0) {
        int kept = 0;
        do {
            kept++;
            above += value;
        } while (kept < all && above < mass);
        w.kept = kept;
    }
    __syncthreads();
    int kept = w.kept;
    for (int i = from; i < to; i++) {
        bool equal = scores[i] == value;
        if (scores[i] < value || equal && rank >= kept) {
            scores[i] = 0;
        }
        rank += equal ? 1 : 0;
    }
    __syncthreads();
}

// The first token up to which the weights sum to more than unit times their sum; the last that has one if none.
__device__ int find(Work& w, const double* scores, int v, double unit) {
    int chunk = (v + THREADS - 1) / THREADS;
    int from = min(v, (int) threadIdx.x * chunk);
    int to = min(v, from + chunk);
    double sum = 0;
    int last = 0;
    for (int i = from; i < to; i++) {
        sum += scores[i];
        last = scores[i] > 0 ? i : last;
    }
    double total;
    sum = sumBefore(w, sum, total);
    double target = unit * total;
    int found = v;
    for (int i = from; i < to && found == v; i++) {
        sum += scores[i];
        found = scores[i] > 0 && sum > target ? i : found;
    }
    if (threadIdx.x == 0) {
        w.first = v;
        w.last = 0;
    }
    __syncthreads();
    atomicMin(&w.first, found);
    atomicMax(&w.last, last);
    __syncthreads();
    return w.first < v ? w.first : w.last;
}

// A double in [0, 1) of 53 random bits.
__device__ double uniform(u64 seed, int length, int row) {
    uint4 words = philox(seed, (unsigned) length, 0, (unsigned) row, PURPOSE);
    return (double) (((u64) words.x << 32 | words.y) >> 11) * 0x1p-53;
}

// history [B, capacity], lengths [B], tokens [B]: chosen; scores [B, V] scratch. topK 0: all; topP 1: all.
template <typename T>
__device__ void sample(const T* logits, const int* history, const int* lengths, int* tokens, double* scores, int v,
        int capacity, int doSample, double temperature, int topK, double topP, double penalty, u64 seed,
        int4* faults) {
    __shared__ Work w;
    int row = blockIdx.x;
    int length = min(lengths[row], capacity);
    logits += (i64) row * v;
    scores += (i64) row * v;
    history += (i64) row * capacity;
    int bad = -1;
    for (int i = threadIdx.x; i < v; i += THREADS) {
        double x = to_f32(logits[i]);
        scores[i] = x;
        bad = isnan(x) ? i : bad;
    }
    if (bad >= 0) {
        report(faults, NAN_LOGIT, row, bad, v);
    }
    if (__syncthreads_or(bad >= 0)) {
        if (threadIdx.x == 0) {
            tokens[row] = 0;
        }
        return;
    }
    if (penalty != 1) {
        for (int i = threadIdx.x; i < length; i += THREADS) {
            int token = history[i];
            if (token < 0 || token >= v) {
                report(faults, BAD_TOKEN, row, token, v);
                continue;
            }
            // A token that came several times gets the same value several times.
            double x = to_f32(logits[token]);
            scores[token] = x > 0 ? x / penalty : x * penalty;
        }
        __syncthreads();
    }
    double best = LOWEST;
    int token = v;
    for (int i = threadIdx.x; i < v; i += THREADS) {
        if (token == v || scores[i] > best) {
            best = scores[i];
            token = i;
        }
    }
    largestOfBlock(w, best, token);
    if (!doSample || isinf(best)) {
        if (threadIdx.x == 0) {
            tokens[row] = token;
            if (doSample) {
                report(faults, NO_DISTRIBUTION, row, best > 0 ? 1 : -1, v);
            }
        }
        return;
    }
    for (int i = threadIdx.x; i < v; i += THREADS) {
        scores[i] = (scores[i] - best) / temperature;
    }
    __syncthreads();
    if (topK > 0 && topK < v) {
        keepTopK(w, scores, v, topK);
    }
    double total = 0;
    for (int i = threadIdx.x; i < v; i += THREADS) {
        scores[i] = exp(scores[i]);
        total += scores[i];
    }
    total = sumOfBlock(w, total);
    if (topP < 1) {
        keepTopP(w, scores, v, topP * total);
    }
    int chosen = find(w, scores, v, uniform(seed, lengths[row], row));
    if (threadIdx.x == 0) {
        tokens[row] = chosen;
    }
}

#define VARIANT(suffix, T)                                                                                            \
    extern "C" __global__ void __launch_bounds__(THREADS) sample_##suffix(const T* logits, const int* history,        \
            const int* lengths, int* tokens, double* scores, int v, int capacity, int doSample, double temperature,   \
            int topK, double topP, double penalty, u64 seed, int4* faults) {                                          \
        sample(logits, history, lengths, tokens, scores, v, capacity, doSample, temperature, topK, topP, penalty,     \
                seed, faults);                                                                                        \
    }

VARIANT(f32, float)
VARIANT(bf16, bf16)
