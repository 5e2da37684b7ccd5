// targets: 90a
// Causal attention in bfloat16 for compute capability 9.0a: the forward of attention_bf16.cu, same equation and results. d is a
// multiple of 8, at most D. A block works on tiles of 128 queries of one head, in steps of KEYS keys.
#include "attention_hopper.cuh"

struct Forward {
    const bf16 *q, *k, *v;
    const int *cuQ, *kvStart, *kvLen;
    bf16* out;
    float* lse;
    int tiles, sequences, heads, kvHeads, d, window;
    float scale;
};

// A tile: 128 queries of one head, and the keys that they see.
struct Queries {
    int head, rows, position, first, end; // keys first .. end - 1, first a multiple of the keys of a step
    long long q, kv, row;                 // elements and rows before it
    __device__ __forceinline__ bool find(const Forward& f, int index, int keys) {
        Span span;
        head = index % f.heads;
        // The tiles at the end of a sequence see the most keys: they go first.
        if (!find_span(f.cuQ, f.sequences, ROWS, (f.tiles - 1 - index) / f.heads, span)) {
            return false;
        }
        rows = min(ROWS, span.length - span.from);
        position = f.kvLen[span.sequence] - span.length + span.from;
        end = position + rows;
        first = first_key(position, f.window) / keys * keys;
        row = span.start + span.from;
        q = row * f.heads * f.d + head * f.d;
        kv = (long long) f.kvStart[span.sequence] * f.kvHeads * f.d + head / (f.heads / f.kvHeads) * f.d;
        return true;
    }
    // The first key of the last step; steps go backwards, as the last keys are the ones that need a mask.
    __device__ __forceinline__ int last(int keys) const {
        return first + (end - 1 - first) / keys * keys;
    }
};

template <int D, int KEYS>
struct ForwardShared {
    static constexpr int TILE = KEYS * D * 2, K = ROWS * D * 2, V = K + 2 * TILE, OUT = V + 2 * TILE, Q_FULL = OUT + K,
                         Q_EMPTY = Q_FULL + 8, K_FULL = Q_EMPTY + 8, K_EMPTY = K_FULL + 16, V_FULL = K_EMPTY + 16,
                         V_EMPTY = V_FULL + 16, DEALER = V_EMPTY + 16, BYTES = Q_FULL + BARRIER_BYTES;
    static_assert(DEALER + Dealer::BYTES <= BYTES, "room for barriers");
};

template <int D, int KEYS>
__device__ __forceinline__ void forward_copies(const Forward& f, Dealer dealer, u32 base) {
    typedef ForwardShared<D, KEYS> At;
    long long qStride = (long long) f.heads * f.d, kvStride = (long long) f.kvHeads * f.d;
    Ring<2> ring;
    int qParity = 1;
    for (int tile = blockIdx.x; dealer.tell(tile); tile = dealer.next()) {
        Queries t;
        if (!t.find(f, tile, KEYS)) {
            continue;
        }
        bool begun = false;
        for (int j = t.last(KEYS); j >= t.first; j -= KEYS) {
            barrier_wait(base + At::K_EMPTY + 8 * ring.slot, ring.parity ^ 1);
            copy_panels<KEYS, D>(base + At::K + ring.slot * At::TILE, f.k + t.kv + j * kvStride, kvStride, t.end - j, f.d);
            barrier_arrive_after_copies(base + At::K_FULL + 8 * ring.slot);
            if (!begun) {
                barrier_wait(base + At::Q_EMPTY, qParity);
                qParity ^= 1;
                copy_panels<ROWS, D>(base, f.q + t.q, qStride, t.rows, f.d);
                barrier_arrive_after_copies(base + At::Q_FULL);
                begun = true;
            }
            barrier_wait(base + At::V_EMPTY + 8 * ring.slot, ring.parity ^ 1);
            copy_panels<KEYS, D>(base + At::V + ring.slot * At::TILE, f.v + t.kv + j * kvStride, kvStride, t.end - j, f.d);
            barrier_arrive_after_copies(base + At::V_FULL + 8 * ring.slot);
            ring.next();
        }
    }
    copy_wait_all();
}

// Scores of one step to probabilities: mask, new maxima, exponentials, sums; factor is what earlier sums are multiplied with.
template <int KEYS>
__device__ __forceinline__ void softmax_step(float (&s)[KEYS / 2], const Queries& t, int row, int j, int window, float scale,
                                             float (&most)[2], float (&total)[2], float (&factor)[2]) {
    int lane = threadIdx.x % 32;
    if (needs_mask(t.position, t.end - 1, j, j + KEYS - 1, window)) {
#pragma unroll
        for (int i = 0; i < KEYS / 2; i++) {
            int position = t.position + row + i / 2 % 2 * 8;
            s[i] = sees(position, j + i / 4 * 8 + lane % 4 * 2 + i % 2, window) ? s[i] : -INFINITY;
        }
    }
    // Four chains each of maxima and sums, so that they are not waited for one by one.
    float now[2][4], sum[2][4], base[2];
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int h = i / 4, c = i % 4;
        now[h][c] = fmaxf(s[8 * (c / 2) + 2 * h + c % 2], s[8 * (c / 2) + 4 + 2 * h + c % 2]);
        sum[h][c] = 0;
    }
#pragma unroll
    for (int i = 16; i < KEYS / 2; i++) {
        now[i / 2 % 2][i / 8 % 2 * 2 + i % 2] = fmaxf(now[i / 2 % 2][i / 8 % 2 * 2 + i % 2], s[i]);
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float top = quad_max(fmaxf(most[h], fmaxf(fmaxf(now[h][0], now[h][1]), fmaxf(now[h][2], now[h][3]))));
        base[h] = top == -INFINITY ? 0 : top * scale;
        factor[h] = exp2_fast(most[h] * scale - base[h]);
        most[h] = top;
    }
#pragma unroll
    for (int i = 0; i < KEYS / 2; i++) {
        s[i] = exp2_fast(s[i] * scale - base[i / 2 % 2]);
        sum[i / 2 % 2][i / 8 % 2 * 2 + i % 2] += s[i];
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        total[h] = total[h] * factor[h] + ((sum[h][0] + sum[h][1]) + (sum[h][2] + sum[h][3]));
    }
}

// The scores of a step run on the tensor cores while the previous step's product with v is under way, and the softmax
// of one warpgroup while the products of the other are.
template <int D, int KEYS>
__device__ __forceinline__ void forward_products(const Forward& f, Dealer dealer, char* shared, u32 base) {
    typedef ForwardShared<D, KEYS> At;
    int group = threadIdx.x / 128 - 1, lane = threadIdx.x % 32;
    int row = group * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4; // of the tile; the lane's second row is 8 below
    float scale = f.scale * LOG2E;
    Ring<2> keys, values;
    int qParity = 0;
    if (group == 1) {
        arrive_threads(TURN, 256);
    }
    for (int tile; (tile = dealer.hear()) < f.tiles;) {
        Queries t;
        if (!t.find(f, tile, KEYS)) {
            continue;
        }
        float s[KEYS / 2], sums[D / 2], most[2] = {-INFINITY, -INFINITY}, total[2] = {0, 0}, factor[2] = {1, 1};
        u32 p[KEYS / 4];
#pragma unroll
        for (int i = 0; i < D / 2; i++) {
            sums[i] = 0;
        }
        if (t.end > t.first) {
            int j = t.last(KEYS);
            await(base + At::Q_FULL, qParity);
            qParity ^= 1;
            await(base + At::K_FULL + 8 * keys.slot, keys.parity);
            sync_threads(TURN + group, 256);
            begin_scores<D, KEYS>(s, base, group * 64, base + At::K + keys.slot * At::TILE);
            arrive_threads(TURN + (group ^ 1), 256);
            wgmma_wait<0>();
            hold(s);
            release(base + At::K_EMPTY + 8 * keys.slot);
            keys.next();
            softmax_step<KEYS>(s, t, row, j, f.window, scale, most, total, factor);
            pack_all<KEYS>(p, s);
            for (j -= KEYS; j >= t.first; j -= KEYS) {
                await(base + At::K_FULL + 8 * keys.slot, keys.parity);
                await(base + At::V_FULL + 8 * values.slot, values.parity);
                sync_threads(TURN + group, 256);
                begin_scores<D, KEYS>(s, base, group * 64, base + At::K + keys.slot * At::TILE);
                begin_product<D, KEYS>(sums, p, base + At::V + values.slot * At::TILE);
                arrive_threads(TURN + (group ^ 1), 256);
                wgmma_wait<1>();
                hold(s);
                release(base + At::K_EMPTY + 8 * keys.slot);
                keys.next();
                softmax_step<KEYS>(s, t, row, j, f.window, scale, most, total, factor);
                wgmma_wait<0>();
                hold(sums);
                release(base + At::V_EMPTY + 8 * values.slot);
                values.next();
                pack_all<KEYS>(p, s);
                if (__any_sync(~0u, factor[0] != 1 || factor[1] != 1)) { // seldom after the first steps
#pragma unroll
                    for (int i = 0; i < D / 2; i++) {
                        sums[i] *= factor[i / 2 % 2];
                    }
                }
            }
            release(base + At::Q_EMPTY);
            await(base + At::V_FULL + 8 * values.slot, values.parity);
            begin_product<D, KEYS>(sums, p, base + At::V + values.slot * At::TILE);
            wgmma_wait<0>();
            hold(sums);
            release(base + At::V_EMPTY + 8 * values.slot);
            values.next();
        }
        float inverse[2];
#pragma unroll
        for (int h = 0; h < 2; h++) {
            total[h] = quad_sum(total[h]);
            inverse[h] = total[h] == 0 ? 0 : 1 / total[h];
            if (lane % 4 == 0 && row + 8 * h < t.rows) {
                f.lse[(t.row + row + 8 * h) * f.heads + t.head] =
                    total[h] == 0 ? -INFINITY : most[h] * f.scale + logf(total[h]);
            }
        }
        store_rows<D>(f.out + t.q, (long long) f.heads * f.d, t.rows, f.d, sums, inverse[0], inverse[1], shared + At::OUT,
                      group * 64);
    }
    if (group == 0) {
        sync_threads(TURN, 256); // the other's first word
    }
}

template <int D, int KEYS>
__device__ __forceinline__ void forward(const Forward& f, u32* counters) {
    typedef ForwardShared<D, KEYS> At;
    char* shared = dynamic_shared();
    u32 base = shared_address(shared);
    Dealer dealer(shared, At::DEALER, counters, f.tiles);
    if (threadIdx.x == 0) {
        dealer.init();
        barrier_init(base + At::Q_FULL, 128);
        barrier_init(base + At::Q_EMPTY, 8);
        for (int i = 0; i < 2; i++) {
            barrier_init(base + At::K_FULL + 8 * i, 128);
            barrier_init(base + At::K_EMPTY + 8 * i, 8);
            barrier_init(base + At::V_FULL + 8 * i, 128);
            barrier_init(base + At::V_EMPTY + 8 * i, 8);
        }
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        fewer_registers<COPIER_REGISTERS>();
        forward_copies<D, KEYS>(f, dealer, base);
    } else {
        more_registers<REGISTERS>();
        forward_products<D, KEYS>(f, dealer, shared, base);
    }
}

#define KERNELS(D)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                               \
        attention_hopper_d##D##_bf16(const bf16* q, const bf16* k, const bf16* v, const int* cuQ, const int* kvStart,      \
                                     const int* kvLen, bf16* out, float* lse, u32* counters, int tiles, int sequences,     \
                                     int heads, int kvHeads, int d, int window, float scale) {                             \
        forward<D, 128>({q, k, v, cuQ, kvStart, kvLen, out, lse, tiles, sequences, heads, kvHeads, d, window, scale},      \
                        counters);                                                                                         \
    }

KERNELS(64)
KERNELS(128)
