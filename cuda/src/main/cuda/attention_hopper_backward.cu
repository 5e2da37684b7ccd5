// targets: 90a
// The gradient of causal attention in bfloat16 for compute capability 9.0a: that of attention_bf16.cu, same equations, same
// order of sums over heads. d is a multiple of 8, at most D. First dq, which also leaves the rows' statistics, then dk and dv.
#include "attention_hopper.cuh"

struct Gradient {
    const bf16 *dOut, *q, *k, *v, *out;
    const float* lse;
    float* stats; // [2, heads, rows]: delta and then lse·log2(e), written with dq and read for dk and dv
    const int* cu;
    int tiles, sequences, rows, heads, kvHeads, d, window;
    float scale;
    // dk and dv of few tiles: the heads of a group are shared by `parts` tiles, which leave their sums in float32 here,
    // [parts, 2, rows, kvHeads, d], for attention_hopper_sum_bf16.
    float* partial = nullptr;
    int parts = 1;
};

// A tile: 128 own rows, x and y, of one head, and the steps over the N rows u, w of the other side. For dq own rows are
// queries (q, dOut) and the others keys (k, v); for dk and dv keys (k, v) and queries (q, dOut) of each head of the group.
template <int N, bool KEYS, bool PARTS>
struct Pass {
    int head, part, rows, start, length, from, first, end; // from the other row first to end
    __device__ __forceinline__ bool find(const Gradient& g, int tile) {
        Span span;
        int parts = PARTS ? g.parts : 1, heads = KEYS ? g.kvHeads * parts : g.heads;
        head = tile % heads / parts;
        part = tile % parts;
        // First those with the most steps: the queries at a sequence's end, the keys at its start.
        if (!(KEYS ? find_span_longest_first(g.cu, g.sequences, ROWS, tile / heads, span)
                   : find_span(g.cu, g.sequences, ROWS, (g.tiles - 1 - tile) / heads, span))) {
            return false;
        }
        start = span.start;
        length = span.length;
        from = span.from;
        rows = min(ROWS, length - from);
        end = from + rows;
        if (KEYS) {
            first = from / N * N;
            end = g.window == 0 ? length : min(length, end - 1 + g.window);
        } else {
            first = first_key(from, g.window) / N * N;
        }
        return true;
    }
    // How many steps: for keys, those of each head of the group (or the part of it) in turn.
    __device__ __forceinline__ int count(const Gradient& g) const {
        return (end - first + N - 1) / N * (KEYS ? g.heads / g.kvHeads / (PARTS ? g.parts : 1) : 1);
    }
};

template <int D, int N, bool KEYS>
struct GradientShared {
    static constexpr int SLOTS = KEYS ? 3 : 2, OWN = ROWS * D * 2, TILE = N * D * 2, U = 2 * OWN, W = U + SLOTS * TILE,
                         OUT = W + SLOTS * TILE, STATS = OUT + OWN, X_FULL = STATS + (KEYS ? SLOTS * 2 * N * 4 : 0),
                         X_EMPTY = X_FULL + 8, Y_FULL = X_EMPTY + 8, Y_EMPTY = Y_FULL + 8, U_FULL = Y_EMPTY + 8,
                         U_EMPTY = U_FULL + 8 * SLOTS, W_FULL = U_EMPTY + 8 * SLOTS, W_EMPTY = W_FULL + 8 * SLOTS,
                         DEALER = W_EMPTY + 8 * SLOTS, BYTES = X_FULL + BARRIER_BYTES;
    static_assert(DEALER + Dealer::BYTES <= BYTES, "room for barriers");
};

template <int D, int N, bool KEYS, bool PARTS>
__device__ __forceinline__ void gradient_copies(const Gradient& g, Dealer dealer, u32 base) {
    typedef GradientShared<D, N, KEYS> At;
    long long stride = (long long) (KEYS ? g.kvHeads : g.heads) * g.d;
    long long otherStride = (long long) (KEYS ? g.heads : g.kvHeads) * g.d;
    Ring<At::SLOTS> ring;
    int parity = 1;
    for (int tile = blockIdx.x; dealer.tell(tile); tile = dealer.next()) {
        Pass<N, KEYS, PARTS> t;
        if (!t.find(g, tile)) {
            continue;
        }
        long long own = (t.start + t.from) * stride + t.head * g.d;
        int from = t.first, group = g.heads / g.kvHeads;
        int head = KEYS ? t.head * group + (PARTS ? t.part * (group / g.parts) : 0) : t.head / group;
        for (int step = 0; step < t.count(g); step++) {
            long long other = (t.start + from) * otherStride + head * g.d;
            if (step == 0) {
                barrier_wait(base + At::X_EMPTY, parity);
                copy_panels<ROWS, D>(base, (KEYS ? g.k : g.q) + own, stride, t.rows, g.d);
                barrier_arrive_after_copies(base + At::X_FULL);
            }
            barrier_wait(base + At::U_EMPTY + 8 * ring.slot, ring.parity ^ 1);
            copy_panels<N, D>(base + At::U + ring.slot * At::TILE, (KEYS ? g.q : g.k) + other, otherStride, t.length - from, g.d);
            if (KEYS && threadIdx.x < 2 * N) {
                int row = from + threadIdx.x % N;
                const float* stats = g.stats + (threadIdx.x / N * g.heads + head) * (long long) g.rows + t.start + row;
                copy4(base + At::STATS + (ring.slot * 2 * N + threadIdx.x) * 4, stats, row < t.length);
            }
            barrier_arrive_after_copies(base + At::U_FULL + 8 * ring.slot);
            if (step == 0) {
                barrier_wait(base + At::Y_EMPTY, parity);
                parity ^= 1;
                copy_panels<ROWS, D>(base + At::OWN, (KEYS ? g.v : g.dOut) + own, stride, t.rows, g.d);
                barrier_arrive_after_copies(base + At::Y_FULL);
            }
            barrier_wait(base + At::W_EMPTY + 8 * ring.slot, ring.parity ^ 1);
            copy_panels<N, D>(base + At::W + ring.slot * At::TILE, (KEYS ? g.dOut : g.v) + other, otherStride, t.length - from, g.d);
            barrier_arrive_after_copies(base + At::W_FULL + 8 * ring.slot);
            ring.next();
            from += N;
            if (from >= t.end) {
                from = t.first;
                head++;
            }
        }
    }
    copy_wait_all();
}

// Writes the sums of the lane's two rows, `row` and `row` + 8 of the tile, those below `rows`, counted from `row`.
template <int D>
__device__ __forceinline__ void store_partial(float* to, long long stride, int rows, int d, const float (&sums)[D / 2], int row) {
    to += row * stride + threadIdx.x % 4 * 2;
#pragma unroll
    for (int i = 0; i < D / 2; i += 2) {
        if (i / 4 * 8 < d && i / 2 % 2 * 8 < rows) {
            *(float2*) (to + i / 2 % 2 * 8 * stride + i / 4 * 8) = make_float2(sums[i], sums[i + 1]);
        }
    }
}

// p = exp(x·uᵀ - lse), ds = p·(y·wᵀ - delta); dq or dk: sum1 += ds·u; dv: sum2 += p·w.
template <int D, int N, bool KEYS, bool PARTS>
__device__ __forceinline__ void gradient_products(const Gradient& g, Dealer dealer, char* shared, u32 base, bf16* d1, bf16* d2) {
    typedef GradientShared<D, N, KEYS> At;
    int group = threadIdx.x / 128 - 1, lane = threadIdx.x % 32;
    int row = group * 64 + threadIdx.x / 32 % 4 * 16 + lane / 4; // of the tile; the lane's second row is 8 below
    long long stride = (long long) (KEYS ? g.kvHeads : g.heads) * g.d;
    float scale = g.scale * LOG2E;
    Ring<At::SLOTS> ring;
    int parity = 0;
    for (int tile; (tile = dealer.hear()) < g.tiles;) {
        Pass<N, KEYS, PARTS> t;
        if (!t.find(g, tile)) {
            continue;
        }
        long long own = (t.start + t.from) * stride + t.head * g.d;
        float delta[2], lse[2];
        if (!KEYS) {
            // Of the lane's two rows, each of which four lanes share.
#pragma unroll
            for (int h = 0; h < 2; h++) {
                int r = row + 8 * h;
                float sum = 0;
                for (int c = lane % 4 * 8; c < g.d && r < t.rows; c += 32) {
                    sum += dot8(*(const uint4*) (g.dOut + own + r * stride + c), *(const uint4*) (g.out + own + r * stride + c));
                }
                delta[h] = quad_sum(sum);
                long long at = t.start + t.from + r;
                lse[h] = r < t.rows ? g.lse[at * g.heads + t.head] * LOG2E : 0;
                if (lane % 4 == 0 && r < t.rows) {
                    g.stats[(long long) t.head * g.rows + at] = delta[h];
                    g.stats[((long long) g.heads + t.head) * g.rows + at] = lse[h];
                }
            }
        }
        float sum1[D / 2], sum2[KEYS ? D / 2 : 1];
#pragma unroll
        for (int i = 0; i < D / 2; i++) {
            sum1[i] = 0;
            sum2[KEYS ? i : 0] = 0;
        }
        float s[N / 2], ds[N / 2];
        u32 p[KEYS ? N / 4 : 1], packed[N / 4];
        int count = t.count(g);
        auto beginProducts = [&](int slot) {
            if constexpr (KEYS) {
                begin_product<D, N>(sum2, p, base + At::W + slot * At::TILE);
            }
            begin_product<D, N>(sum1, packed, base + At::U + slot * At::TILE);
        };
        auto endProducts = [&](int slot) {
            hold(sum1);
            if constexpr (KEYS) {
                hold(sum2);
            }
            release(base + At::U_EMPTY + 8 * slot);
            release(base + At::W_EMPTY + 8 * slot);
        };
        // From the scores s, ds under way to p and packed, the left operands of the products.
        int from = t.first;
        auto endScores = [&](bool last) {
            wgmma_wait<1>();
            hold(s);
            bool masked = KEYS ? from + N > t.length || needs_mask(from, from + N - 1, t.from, t.from + t.rows - 1, g.window)
                               : needs_mask(t.from, t.from + t.rows - 1, from, from + N - 1, g.window);
            const float* stats = (const float*) (shared + At::STATS) + ring.slot * 2 * N + lane % 4 * 2;
#pragma unroll
            for (int i = 0; i < N / 2; i++) {
                s[i] = exp2_fast(s[i] * scale - (KEYS ? stats[N + i / 4 * 8 + i % 2] : lse[i / 2 % 2]));
            }
            if (masked) {
#pragma unroll
                for (int i = 0; i < N / 2; i++) {
                    int a = t.from + row + i / 2 % 2 * 8, b = from + i / 4 * 8 + lane % 4 * 2 + i % 2;
                    bool seen = KEYS ? b < t.length && sees(b, a, g.window) : sees(a, b, g.window);
                    s[i] = seen ? s[i] : 0;
                }
            }
            if constexpr (KEYS) {
                pack_all<N>(p, s);
            }
            wgmma_wait<0>();
            hold(ds);
            from = from + N < t.end ? from + N : t.first;
            if (last) {
                release(base + At::X_EMPTY);
                release(base + At::Y_EMPTY);
            }
#pragma unroll
            for (int i = 0; i < N / 2; i++) {
                ds[i] = s[i] * (ds[i] - (KEYS ? stats[i / 4 * 8 + i % 2] : delta[i / 2 % 2]));
            }
            pack_all<N>(packed, ds);
        };
        await(base + At::X_FULL, parity);
        await(base + At::U_FULL + 8 * ring.slot, ring.parity);
        begin_scores<D, N>(s, base, group * 64, base + At::U + ring.slot * At::TILE);
        await(base + At::Y_FULL, parity);
        await(base + At::W_FULL + 8 * ring.slot, ring.parity);
        begin_scores<D, N>(ds, base + At::OWN, group * 64, base + At::W + ring.slot * At::TILE);
        endScores(count == 1);
        for (int left = count - 1; left > 0; left--) {
            int slot = ring.slot;
            ring.next();
            beginProducts(slot);
            await(base + At::U_FULL + 8 * ring.slot, ring.parity);
            begin_scores<D, N>(s, base, group * 64, base + At::U + ring.slot * At::TILE);
            await(base + At::W_FULL + 8 * ring.slot, ring.parity);
            wgmma_wait<1>();
            endProducts(slot);
            begin_scores<D, N>(ds, base + At::OWN, group * 64, base + At::W + ring.slot * At::TILE);
            endScores(left == 1);
        }
        beginProducts(ring.slot);
        wgmma_wait<0>();
        endProducts(ring.slot);
        ring.next();
        parity ^= 1;
        if constexpr (PARTS) {
            float* to = g.partial + 2 * t.part * (long long) g.rows * stride + own;
            store_partial<D>(to, stride, t.rows - row, g.d, sum1, row);
            store_partial<D>(to + g.rows * stride, stride, t.rows - row, g.d, sum2, row);
            continue;
        }
        store_rows<D>(d1 + own, stride, t.rows, g.d, sum1, g.scale, g.scale, shared + At::OUT, group * 64);
        if constexpr (KEYS) {
            store_rows<D>(d2 + own, stride, t.rows, g.d, sum2, 1, 1, shared + At::OUT, group * 64);
        }
    }
}

template <int D, int N, bool KEYS, bool PARTS>
__device__ __forceinline__ void gradient(const Gradient& g, u32* counters, bf16* d1, bf16* d2) {
    typedef GradientShared<D, N, KEYS> At;
    char* shared = dynamic_shared();
    u32 base = shared_address(shared);
    Dealer dealer(shared, At::DEALER, counters, g.tiles);
    if (threadIdx.x == 0) {
        dealer.init();
        barrier_init(base + At::X_FULL, 128);
        barrier_init(base + At::X_EMPTY, 8);
        barrier_init(base + At::Y_FULL, 128);
        barrier_init(base + At::Y_EMPTY, 8);
        for (int i = 0; i < At::SLOTS; i++) {
            barrier_init(base + At::U_FULL + 8 * i, 128);
            barrier_init(base + At::U_EMPTY + 8 * i, 8);
            barrier_init(base + At::W_FULL + 8 * i, 128);
            barrier_init(base + At::W_EMPTY + 8 * i, 8);
        }
    }
    __syncthreads();
    if (threadIdx.x < 128) {
        fewer_registers<COPIER_REGISTERS>();
        gradient_copies<D, N, KEYS, PARTS>(g, dealer, base);
    } else {
        more_registers<REGISTERS>();
        gradient_products<D, N, KEYS, PARTS>(g, dealer, shared, base, d1, d2);
    }
}

#define KERNELS(D)                                                                                                         \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                               \
        attention_hopper_dq_d##D##_bf16(const bf16* dOut, const bf16* q, const bf16* k, const bf16* v, const bf16* out,    \
                                        const float* lse, const int* cu, bf16* dq, float* stats, u32* counters, int tiles, \
                                        int sequences, int rows, int heads, int kvHeads, int d, int window, float scale) { \
        gradient<D, 128, false, false>({dOut, q, k, v, out, lse, stats, cu, tiles, sequences, rows, heads, kvHeads, d, window,    \
                                 scale},                                                                                   \
                                counters, dq, nullptr);                                                                    \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                               \
        attention_hopper_dkdv_d##D##_bf16(const bf16* dOut, const bf16* q, const bf16* k, const bf16* v, float* stats, const int* cu,\
            bf16* dk, bf16* dv, u32* counters, int tiles, int sequences, int rows,                                         \
            int heads, int kvHeads, int d, int window, float scale) {                                                      \
        gradient<D, 64, true, false>({dOut, q, k, v, nullptr, nullptr, stats, cu, tiles, sequences, rows, heads, kvHeads,  \
                                    d, window, scale}, counters, dk, dv);                                                  \
    }                                                                                                                      \
    extern "C" __global__ void __launch_bounds__(THREADS, 1)                                                               \
        attention_hopper_dkdv_parts_d##D##_bf16(const bf16* dOut, const bf16* q, const bf16* k, const bf16* v, float* stats, const int* cu,\
            bf16* dk, bf16* dv, u32* counters, float* partial, int parts, int tiles, int sequences, int rows,              \
            int heads, int kvHeads, int d, int window, float scale) {                                                      \
        gradient<D, 64, true, true>({dOut, q, k, v, nullptr, nullptr, stats, cu, tiles, sequences, rows, heads, kvHeads,   \
                                    d, window, scale, partial, parts}, counters, dk, dv);                                  \
    }

KERNELS(64)
KERNELS(128)

// dk and dv from the sums of parts, added in their order; four of n elements of each a thread.
extern "C" __global__ void attention_hopper_sum_bf16(const float* partial, bf16* dk, bf16* dv, int parts, long long n, float scale) {
    long long at = (blockIdx.x * (long long) blockDim.x + threadIdx.x) * 4;
    bool second = at >= n;
    if (at >= 2 * n) {
        return;
    }
    float4 sum = make_float4(0, 0, 0, 0);
    for (int p = 0; p < parts; p++) {
        float4 x = *(const float4*) (partial + 2 * p * n + at);
        sum.x += x.x;
        sum.y += x.y;
        sum.z += x.z;
        sum.w += x.w;
    }
    float factor = second ? 1 : scale;
    *(uint2*) (second ? dv + at - n : dk + at) = make_uint2(pack_bf16(sum.x * factor, sum.y * factor), pack_bf16(sum.z * factor, sum.w * factor));
}
