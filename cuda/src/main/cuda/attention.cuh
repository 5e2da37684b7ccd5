// What all attention kernels share: which sequence a block works on, and which keys a query sees.
#pragma once
#include "ptx.cuh"

// Sequences lie one after another; each is cut into blocks of `size` rows. A grid has as many blocks as there can be
// (rows / size + sequences), so that it follows from shapes alone.
struct Span {
    int sequence;
    int start;  // the sequence's first row
    int length; // its rows
    int from;   // the block's first row, counted from the sequence's first
};

// The index-th block of all sequences; false where there is none. Called by whole warps; cu: [sequences + 1].
__device__ __forceinline__ bool find_span(const int* cu, int sequences, int size, int index, Span& span) {
    int lane = threadIdx.x % 32;
    for (int first = 0; first < sequences; first += 32) {
        int s = first + lane;
        int start = s < sequences ? cu[s] : 0;
        int length = s < sequences ? cu[s + 1] - start : 0;
        int blocks = (length + size - 1) / size;
        int until = blocks;
        for (int step = 1; step < 32; step *= 2) {
            int before = __shfl_up_sync(~0u, until, step);
            until += lane >= step ? before : 0;
        }
        u32 beyond = __ballot_sync(~0u, until > index);
        if (beyond != 0) {
            int owner = __ffs(beyond) - 1;
            span.sequence = first + owner;
            span.start = __shfl_sync(~0u, start, owner);
            span.length = __shfl_sync(~0u, length, owner);
            span.from = (index - __shfl_sync(~0u, until - blocks, owner)) * size;
            return true;
        }
        index -= __shfl_sync(~0u, until, 31);
    }
    return false;
}

// The same blocks in another order: those with the most blocks of their sequence from them to its end first.
__device__ __forceinline__ bool find_span_longest_first(const int* cu, int sequences, int size, int index, Span& span) {
    int lane = threadIdx.x % 32;
    auto blocks = [&](int s) { return s < sequences ? (cu[s + 1] - cu[s] + size - 1) / size : 0; };
    int most = 0;
    for (int s = lane; s < sequences; s += 32) {
        most = max(most, blocks(s));
    }
    most = __reduce_max_sync(~0u, most);
    // `left` blocks from the end of their sequence on: find it so that blocks with more number at most index.
    auto longer = [&](int left) {
        int sum = 0;
        for (int s = lane; s < sequences; s += 32) {
            sum += max(0, blocks(s) - left);
        }
        return __reduce_add_sync(~0u, sum);
    };
    if (index >= longer(0)) {
        return false;
    }
    int low = 1, high = most;
    while (low < high) {
        int middle = (low + high) / 2;
        if (longer(middle) <= index) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    index -= longer(low);
    for (int first = 0; first < sequences; first += 32) {
        int n = blocks(first + lane);
        u32 some = __ballot_sync(~0u, n >= low);
        u32 chosen = __ballot_sync(~0u, n >= low && __popc(some & ((1u << lane) - 1)) == index);
        if (chosen != 0) {
            span.sequence = first + __ffs(chosen) - 1;
            span.start = cu[span.sequence];
            span.length = cu[span.sequence + 1] - span.start;
            span.from = (blocks(span.sequence) - low) * size;
            return true;
        }
        index -= __popc(some);
    }
    return false;
}

// Whether the query at `position` sees the key at `key`: itself and those before, the last `window` when there is one.
__device__ __forceinline__ bool sees(int position, int key, int window) {
    return key <= position && (window == 0 || key > position - window);
}

// The first key that the query at `position` sees.
__device__ __forceinline__ int first_key(int position, int window) {
    return window == 0 ? 0 : max(0, position - window + 1);
}

// Whether some query of positions [p0, p1] does not see some key of [k0, k1].
__device__ __forceinline__ bool needs_mask(int p0, int p1, int k0, int k1, int window) {
    return k1 > p0 || (window != 0 && k0 <= p1 - window);
}

__device__ __forceinline__ float quad_sum(float x) {
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

__device__ __forceinline__ float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

// The dot product of eight elements.
__device__ __forceinline__ float dot8(uint4 a, uint4 b) {
    float s = low_half(a.x) * low_half(b.x) + high_half(a.x) * high_half(b.x);
    s += low_half(a.y) * low_half(b.y) + high_half(a.y) * high_half(b.y);
    s += low_half(a.z) * low_half(b.z) + high_half(a.z) * high_half(b.z);
    return s + low_half(a.w) * low_half(b.w) + high_half(a.w) * high_half(b.w);
}
