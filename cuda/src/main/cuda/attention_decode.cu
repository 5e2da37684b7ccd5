// Causal attention for a few query rows over many keys (decoding): the keys are split among blocks.
//
//   q [N, heads·d], k, v [M, kvHeads·d] -> out [N, heads·d], lse [N, heads]; see DecoderKernels.attention
//
// A unit is up to 16 rows (query, head) that share a kv head. Its keys are cut into at most `splits` equal parts, one a
// block; in a block the four warps take turns of 16 keys. A part's result is (sums, most, total): Σ exp(s - most)·v, the
// largest score, Σ exp(s - most). The block that finishes last combines the parts in their order, so that a run repeats
// bit for bit, and sets the unit's counter back to zero.
//
// workspace: [units, splits, 16, D + 4] F32; counters: [units] zero before the first call. Both unused when splits is 1.
#include "grid.cuh"
#include "attention_decode.cuh"

// Sums of four elements of a row, so far: of exp(s - most)·v and of exp(s - most).
template <class Warp>
struct Sums {
    float most = -INFINITY, total = 0, sum[4] = {};
    __device__ __forceinline__ void add(float otherMost, float otherTotal, float4 other) {
        float now = fmaxf(most, otherMost), base = now == -INFINITY ? 0 : now;
        float f = Warp::power(most - base), g = Warp::power(otherMost - base);
        most = now;
        total = total * f + otherTotal * g;
        sum[0] = sum[0] * f + other.x * g;
        sum[1] = sum[1] * f + other.y * g;
        sum[2] = sum[2] * f + other.z * g;
        sum[3] = sum[3] * f + other.w * g;
    }
};

template <int D, class Warp>
__device__ __forceinline__ void decode(const typename Warp::Element* q, const typename Warp::Element* k,
                                       const typename Warp::Element* v, typename Warp::Element* out, const Call& c) {
    __shared__ float mosts[WARPS][UNIT], totals[WARPS][UNIT];
    __shared__ bool last;
    float(*shared)[UNIT][D + 4] = (float(*)[UNIT][D + 4]) dynamic_shared();
    int group = c.heads / c.kvHeads, headTiles = (group + UNIT - 1) / UNIT, queries = max(1, UNIT / group);
    int split = blockIdx.x % c.splits, index = blockIdx.x / c.splits;
    Unit unit;
    unit.kvHead = index / headTiles % c.kvHeads;
    Span span;
    if (!find_span(c.cuQ, c.sequences, queries, index / headTiles / c.kvHeads, span)) {
        return;
    }
    int count = min(queries, span.length - span.from);
    unit.head = unit.kvHead * group + index % headTiles * UNIT;
    unit.heads = min(UNIT, group - index % headTiles * UNIT);
    unit.rows = count * unit.heads;
    unit.firstRow = span.start + span.from;
    unit.position = c.kvLen[span.sequence] - span.length + span.from;
    unit.window = c.window;
    int first = first_key(unit.position, c.window), end = max(first, unit.position + count);
    int part = (end - first + c.splits - 1) / c.splits;
    part = max(PART, (part + WARPS * STEP - 1) / (WARPS * STEP) * (WARPS * STEP));
    int parts = max(1, (end - first + part - 1) / part);
    if (split >= parts) {
        return;
    }
    int warp = threadIdx.x / 32, to = min(end, first + (split + 1) * part);
    long long stride = (long long) c.kvHeads * c.d;
    k += c.kvStart[span.sequence] * stride + unit.kvHead * c.d;
    v += c.kvStart[span.sequence] * stride + unit.kvHead * c.d;
    Warp sums;
    sums.begin(q, unit, c);
    sums.run(k, v, stride, first + split * part + warp * STEP, to, Warp::scale(c.scale), unit, c.d);
    sums.publish(shared[warp], mosts[warp], totals[warp], unit.rows);
    __syncthreads();

    auto write = [&](int row, int element, const Sums<Warp>& s) {
        long long at = (unit.firstRow + row / unit.heads) * c.heads + unit.head + row % unit.heads;
        float factor = s.total == 0 ? 0 : 1 / s.total;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (element + i < c.d) {
                Warp::put(out + at * c.d + element + i, s.sum[i] * factor);
            }
        }
        if (element == 0) {
            c.lse[at] = s.total == 0 ? -INFINITY : Warp::logSumExp(s.most, s.total);
        }
    };
    constexpr int ROW = D + 4, SIZE = UNIT * ROW;
    float* results = c.workspace + (long long) index * c.splits * SIZE;
    for (int i = threadIdx.x; i < unit.rows * (D / 4); i += THREADS) {
        int row = i / (D / 4), element = i % (D / 4) * 4;
        Sums<Warp> s;
#pragma unroll
        for (int w = 0; w < WARPS; w++) {
            s.add(mosts[w][row], totals[w][row], *(const float4*) &shared[w][row][element]);
        }
        if (parts == 1) {
            write(row, element, s);
            continue;
        }
        float* to = results + split * SIZE + row * ROW;
        *(float4*) (to + element) = make_float4(s.sum[0], s.sum[1], s.sum[2], s.sum[3]);
        if (element == 0) {
            *(float4*) (to + D) = make_float4(s.most, s.total, 0, 0);
        }
    }
    if (parts == 1) {
        return;
    }
    fence_device();
    __syncthreads();
    if (threadIdx.x == 0) {
        last = atomicAdd(c.counters + index, 1) == parts - 1;
    }
    __syncthreads();
    if (!last) {
        return;
    }
    fence_device();
    for (int i = threadIdx.x; i < unit.rows * (D / 4); i += THREADS) {
        int row = i / (D / 4), element = i % (D / 4) * 4;
        const float* from = results + row * ROW;
        Sums<Warp> s;
        for (int p = 0; p < parts; p += 4) {
            float4 x[4], y[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                bool some = p + j < parts;
                x[j] = some ? load_uncached(from + (p + j) * SIZE + D) : make_float4(-INFINITY, 0, 0, 0);
                y[j] = some ? load_uncached(from + (p + j) * SIZE + element) : make_float4(0, 0, 0, 0);
            }
#pragma unroll
            for (int j = 0; j < 4; j++) {
                s.add(x[j].x, x[j].y, y[j]);
            }
        }
        write(row, element, s);
    }
    if (threadIdx.x == 0) {
        c.counters[index] = 0;
    }
}

#define KERNEL(D, TYPE, WARP, ELEMENT)                                                                                     \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                               \
        attention_decode_d##D##_##TYPE(const ELEMENT* q, const ELEMENT* k, const ELEMENT* v, const int* cuQ,               \
                                       const int* kvStart, const int* kvLen, ELEMENT* out, float* lse, float* workspace,   \
                                       u32* counters, int sequences, int heads, int kvHeads, int d, int window,            \
                                       int splits, float scale) {                                                          \
        next_may_begin();                                                                                                  \
        previous_has_ended();                                                                                              \
        decode<D, WARP<D>>(q, k, v, out,                                                                                   \
                           {cuQ, kvStart, kvLen, lse, workspace, counters, sequences, heads, kvHeads, d, window, splits,   \
                            scale});                                                                                       \
    }

KERNEL(64, bf16, TensorCores, bf16)
KERNEL(128, bf16, TensorCores, bf16)
KERNEL(256, bf16, TensorCores, bf16)
KERNEL(64, f32, Plain, float)
KERNEL(128, f32, Plain, float)
KERNEL(256, f32, Plain, float)
