// The choice of the next token of each row of logits [B, V], in double, as TokenSampler makes it: repetition penalty,
// then the largest score, or temperature, top-k, top-p and a draw. A block a row, its scores in global memory.
//
// Differs from TokenSampler only in the order of sums of exponentials, by some 1e-14 of the sum: the same token unless
// a draw, or the edge of top-p's mass, falls so close to the border between two tokens.
#include "grid.cuh"
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
    u64 keys[THREADS];
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

// The sum of what the threads before this one give, and the sum of all: within warps, then over warps in order.
template <typename T>
__device__ T sumBefore(T* shared, T x, T& total) {
    int lane = threadIdx.x % WARP;
    int warp = threadIdx.x / WARP;
    T sum = x;
#pragma unroll
    for (int distance = 1; distance < WARP; distance *= 2) {
        T other = __shfl_up_sync(~0u, sum, distance);
        sum += lane >= distance ? other : 0;
    }
    if (lane == WARP - 1) {
        shared[warp] = sum;
    }
    __syncthreads();
    T before = 0;
    total = 0;
    for (int k = 0; k < THREADS / WARP; k++) {
        before = k == warp ? total : before;
        total += shared[k];
    }
    __syncthreads();
    return before + sum - x;
}

// Scores as unsigned numbers of the same order. For top-k, scores from -infinity to 0; for top-p, from 0 to 1.
struct Count {
    __device__ static u64 key(double s) {
        return INFINITY_BITS - (u64) __double_as_longlong(fabs(s));
    }
    __device__ static double weight(u64) {
        return 1;
    }
};

struct Mass {
    __device__ static u64 key(double p) {
        return (u64) __double_as_longlong(p);
    }
    __device__ static double weight(u64 key) {
        return __longlong_as_double((i64) key);
    }
};

// The largest key T such that the weights of the keys from T on sum to at least goal; 0 if all together do not. By
// bisection: T lies in [low, low + 2^bits). When no more keys than threads are left there, each thread takes one.
template <typename By>
__device__ u64 threshold(Work& w, const double* scores, int v, double goal) {
    u64 low = 0;
    int bits = 63;
    int inside = v;
    while (inside > THREADS && bits > 0) {
        bits--;
        u64 middle = low + (1ull << bits);
        u64 high = middle + (1ull << bits);
        double sum = 0;
        int upper = 0;
        int lower = 0;
        for (int i = threadIdx.x; i < v; i += THREADS) {
            u64 key = By::key(scores[i]);
            sum += key >= middle ? By::weight(key) : 0;
            upper += key >= middle && key < high ? 1 : 0;
            lower += key >= low && key < middle ? 1 : 0;
        }
        bool up = blockSum(sum, w.sums) >= goal;
        low = up ? middle : low;
        inside = blockSum(up ? upper : lower, w.counts);
    }
    if (bits == 0) {
        return low;
    }
    u64 high = low + (1ull << bits);
    double above = 0;
    int mine = 0;
    for (int i = threadIdx.x; i < v; i += THREADS) {
        u64 key = By::key(scores[i]);
        above += key >= high ? By::weight(key) : 0;
        mine += key >= low && key < high ? 1 : 0;
    }
    above = blockSum(above, w.sums);
    int at = sumBefore(w.counts, mine, inside);
    for (int i = threadIdx.x; i < v; i += THREADS) {
        u64 key = By::key(scores[i]);
        if (key >= low && key < high) {
            w.keys[at++] = key;
        }
    }
    __syncthreads();
    bool some = (int) threadIdx.x < inside;
    u64 key = some ? w.keys[threadIdx.x] : 0;
    while (bits > 0 && __syncthreads_count(some && key >= low && key < low + (1ull << bits)) > 1) {
        bits--;
        u64 middle = low + (1ull << bits);
        double sum = above + blockSum(some && key >= middle ? By::weight(key) : 0, w.sums);
        low = sum >= goal ? middle : low;
    }
    // One key is left there, or equal ones.
    if (threadIdx.x == 0) {
        w.keys[0] = 0;
    }
    __syncthreads();
    if (some && key >= low && key < low + (1ull << bits)) {
        w.keys[0] = key;
    }
    __syncthreads();
    low = w.keys[0];
    __syncthreads();
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

// The elements of a warp: neighbours, so that a warp's loads are of neighbouring elements and warps follow in order.
struct Range {
    int from;
    int to;
    __device__ Range(int v) {
        int each = (v + THREADS - 1) / THREADS * WARP;
        from = min(v, (int) threadIdx.x / WARP * each);
        to = min(v, from + each);
    }
};

// Drops each probability that those larger than it leave no room for below mass; among equals the first tokens stay.
__device__ void keepTopP(Work& w, double* scores, int v, double mass) {
    u64 least = threshold<Mass>(w, scores, v, mass);
    double value = __longlong_as_double((i64) least);
    Range mine(v);
    int lane = threadIdx.x % WARP;
    double above = 0;
    int equals = 0;
    for (int i = mine.from + lane; i < mine.to; i += WARP) {
        above += scores[i] > value ? scores[i] : 0;
        equals += scores[i] == value ? 1 : 0;
    }
    above = blockSum(above, w.sums);
    int all;
    int rank = sumBefore(w.counts, equals, all);
    if (threadIdx.x == 0) {
        int kept = 0;
        do {
            kept++;
            above += value;
        } while (kept < all && above < mass);
        w.kept = kept;
    }
    __syncthreads();
    // How many equals lie before this warp's elements.
    rank = __shfl_sync(~0u, rank, 0);
    int kept = w.kept;
    for (int first = mine.from; first < mine.to; first += WARP) {
        int i = first + lane;
        bool equal = i < mine.to && scores[i] == value;
        unsigned mask = __ballot_sync(~0u, equal);
        if (i < mine.to && (scores[i] < value || equal && rank + __popc(mask & ((1u << lane) - 1)) >= kept)) {
            scores[i] = 0;
        }
        rank += __popc(mask);
    }
    __syncthreads();
}

// The first token up to which the weights sum to more than unit times their sum; the last that has one if none.
__device__ int find(Work& w, const double* scores, int v, double unit) {
    Range mine(v);
    int lane = threadIdx.x % WARP;
    double sum = 0;
    int last = 0;
    for (int i = mine.from + lane; i < mine.to; i += WARP) {
        sum += scores[i];
        last = scores[i] > 0 ? i : last;
    }
    double total;
    double before = __shfl_sync(~0u, sumBefore(w.sums, sum, total), 0);
    double target = unit * total;
    if (threadIdx.x == 0) {
        w.first = v;
        w.last = 0;
    }
    __syncthreads();
    atomicMax(&w.last, last);
    for (int first = mine.from; first < mine.to; first += WARP) {
        int i = first + lane;
        double p = i < mine.to ? scores[i] : 0;
        double upTo = p;
#pragma unroll
        for (int distance = 1; distance < WARP; distance *= 2) {
            double other = __shfl_up_sync(~0u, upTo, distance);
            upTo += lane >= distance ? other : 0;
        }
        unsigned mask = __ballot_sync(~0u, p > 0 && before + upTo > target);
        if (mask != 0) {
            if (lane == 0) {
                atomicMin(&w.first, first + __ffs(mask) - 1);
            }
            break;
        }
        before += __shfl_sync(~0u, upTo, WARP - 1);
    }
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
    bool penalized = penalty != 1;
    double best = LOWEST;
    int token = v;
    int bad = -1;
    bool wide = aligned(logits);
    for (int i = threadIdx.x * LANES<T>; i < v; i += THREADS * LANES<T>) {
        float x[LANES<T>];
        load(logits, i, v, wide, x);
#pragma unroll
        for (int k = 0; k < LANES<T>; k++) {
            if (i + k >= v) {
                continue;
            }
            bad = isnan(x[k]) ? i + k : bad;
            if (token == v || x[k] > best) {
                best = x[k];
                token = i + k;
            }
        }
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
    if (doSample || penalized) {
        for (int i = threadIdx.x; i < v; i += THREADS) {
            scores[i] = to_f32(logits[i]);
        }
        __syncthreads();
    }
    if (penalized) {
        for (int i = threadIdx.x; i < length; i += THREADS) {
            int past = history[i];
            if (past < 0 || past >= v) {
                report(faults, BAD_TOKEN, row, past, v);
                continue;
            }
            // A token that came several times gets the same value several times.
            double x = to_f32(logits[past]);
            scores[past] = x > 0 ? x / penalty : x * penalty;
        }
        __syncthreads();
        best = LOWEST;
        token = v;
        for (int i = threadIdx.x; i < v; i += THREADS) {
            if (token == v || scores[i] > best) {
                best = scores[i];
                token = i;
            }
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
    total = blockSum(total, w.sums);
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
        next_may_begin();                                                                                              \
        previous_has_ended();                                                                                          \
        sample(logits, history, lengths, tokens, scores, v, capacity, doSample, temperature, topK, topP, penalty,     \
                seed, faults);                                                                                        \
    }

VARIANT(f32, float)
VARIANT(bf16, bf16)
