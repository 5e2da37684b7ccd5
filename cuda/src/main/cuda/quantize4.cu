// options: --fmad=false
//
// Block-wise quantization to 4 bits: x [n] -> packed [ceil(n/2)], absmax [b], the code of x * (1 / absmax).
#include "blockwise.cuh"
#include "grid.cuh"
#include "ptx.cuh"

// The code by counting thresholds, for any number.
__device__ int code_by_counting(const Codebook &c, float x) {
    float compared = c.sign_magnitude ? fabsf(x) : x;
    int rank = 0;
#pragma unroll 1
    for (int i = 0; i < 15; i++) {
        rank += compared > c.threshold[i];
    }
    int code = c.code_of_rank[rank];
    return c.sign_magnitude && x < 0 ? code | 8 : code;
}

// Bins of -1..1 (NF4) or 0..1 (FP4) narrower than the gap between two thresholds: a bin holds one at most, so one
// comparison decides. Bins are found by rounding a multiple of x and leaving bits out, which is monotonous, so the
// result is exact.
#define BINS 32
#define BIN_BYTES 8

struct Bin {
    float threshold;
    unsigned int codes;     // below the threshold: bits 0-3; above: bits 4-7
};

// 1.5 * 2^20: adding it leaves a number in eighths in the lowest bits.
#define EIGHTHS 1572864.0f

struct Bins {
    Bin of[BINS];
    float multiplier, offset;

    // Where the bin of x is: its offset in bytes.
    __device__ static unsigned int place(float x, float multiplier, float offset) {
        return __float_as_uint(__fmaf_rn(x, multiplier, offset)) & (BINS - 1) * BIN_BYTES;
    }
};

// `c` is in shared memory.
__device__ void make_bins(const Codebook &c, Bins &bins) {
    float multiplier = c.sign_magnitude ? 30 : 15, offset = c.sign_magnitude ? EIGHTHS : EIGHTHS + 16;
    if (threadIdx.x < BINS) {
        unsigned int b = threadIdx.x, below = 0;
        float threshold = __int_as_float(INFINITE);
#pragma unroll 1
        for (int i = 0; i < 15; i++) {
            if (c.threshold[i] <= 1) {
                unsigned int bin = Bins::place(c.threshold[i], multiplier, offset) / BIN_BYTES;
                below += bin < b;
                threshold = bin == b ? c.threshold[i] : threshold;
            }
        }
        bins.of[b] = Bin{threshold, (unsigned int)(c.code_of_rank[below] | c.code_of_rank[min(below + 1, 15)] << 4)};
    }
    if (threadIdx.x == 0) {
        bins.multiplier = multiplier;
        bins.offset = offset;
    }
    __syncthreads();
}

// What all threads of quantize4 share.
struct Encoder {
    const Codebook &codebook;
    const Bins &bins;
    unsigned int magnitude;     // the bits of x that are compared
    float multiplier, offset;
    bool words;
    unsigned char *packed;
    long n;

    // Writes the codes of up to eight elements of a block whose largest magnitude has the bits `most`.
    __device__ void write(const float *v, long first, int most, float constant, float reciprocal) const {
        unsigned int word = 0;
        if (!isinf(reciprocal) && most < INFINITE) {
            // From the highest four bits to the lowest.
#pragma unroll
            for (int i = PIECE - 1; i >= 0; i--) {
                float compared = __uint_as_float(__float_as_uint(v[i ^ 1] * reciprocal) & magnitude);
                Bin bin = *(const Bin *)((const char *)bins.of + Bins::place(compared, multiplier, offset));
                word = (word << 4) + (compared > bin.threshold ? bin.codes >> 4 : bin.codes & 15);
            }
            if (signs()) {
#pragma unroll
                for (int i = 0; i < PIECE; i++) {
                    word |= v[i] * reciprocal < 0 ? 8u << shift_of(i) : 0;
                }
            }
        } else {
            // A copy, so that v itself stays in registers.
            float values[PIECE];
#pragma unroll
            for (int i = 0; i < PIECE; i++) {
                values[i] = v[i];
            }
            word = slowly(values, constant, reciprocal);
        }
        if (words && first + PIECE <= n) {
            *(unsigned int *)(packed + first / 2) = word;
        } else {
            write_bytes(word, first);
        }
    }

    __device__ bool signs() const {
        return magnitude == MAGNITUDE;
    }

    // The same of a piece that ends behind the last element, or is not aligned.
    __device__ __noinline__ void write_bytes(unsigned int word, long first) const {
        int count = (int)min(n - first, (long)PIECE);
        if (count > 0 && count % 2 == 1) {
            word = word & ~(15u << shift_of(count)) | codebook.zero_code << shift_of(count);
        }
        for (int i = 0; i < count; i += 2) {
            packed[(first + i) / 2] = word >> 4 * i;
        }
    }

    // Where the code of element i stands in a word: the first of a pair in the upper half of its byte.
    static __device__ int shift_of(int i) {
        return 4 * (i ^ 1);
    }

    __device__ __noinline__ unsigned int slowly(const float *v, float constant, float reciprocal) const {
        unsigned int word = 0;
#pragma unroll 1
        for (int i = 0; i < PIECE; i++) {
            word |= code_by_counting(codebook, normalize(v[i], constant, reciprocal)) << shift_of(i);
        }
        return word;
    }
};

// Eight elements as they are in memory.
template <class T> struct Raw {
    static const int each = 16 / sizeof(T), words = PIECE / each;
    Packed<T> parts[words];

    // Those beyond the end are 0, which changes no absmax.
    __device__ void load(const T *x, long from, long n, bool vector) {
        if (vector && from + PIECE <= n) {
#pragma unroll
            for (int i = 0; i < words; i++) {
                parts[i].words = ((const uint4 *)(x + from))[i];
            }
        } else {
            *this = slowly(x, from, n);
        }
    }

    static __device__ __noinline__ Raw slowly(const T *x, long from, long n) {
        Raw raw;
        for (int i = 0; i < PIECE; i++) {
            raw.parts[i / each].elements[i % each] = from + i < n ? x[from + i] : from_f32<T>(0);
        }
        return raw;
    }

    __device__ void floats(float *v) const {
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            v[i] = to_f32(parts[i / each].elements[i % each]);
        }
    }
};

// Types that have the quick way for NF4.
template <class T> constexpr bool PLAIN = false;
template <> constexpr bool PLAIN<bf16> = true;

// The bins of a code whose values ascend (NF4), each half-warp's lane its own copy, so that no two meet in a bank.
#define COPIES 16
#define LOG_BIN_BYTES 7
#define AT_BIN ((BINS - 1) << LOG_BIN_BYTES)
// 1.5 * 2^16: adding it leaves a number in 128ths in the lowest bits, so that whole numbers stand where a bin begins.
#define PARTS 98304.0f

struct Plain {
    float threshold;
    unsigned int code;      // below the threshold; above it is the next
};

// Where the bin of x is, and in it the copy at offset `own`.
__device__ __forceinline__ unsigned int plain_place(float x, unsigned int own) {
    unsigned int place;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(place)
        : "r"(__float_as_uint(__fmaf_rn(x, 15, PARTS + 16))), "n"(AT_BIN), "r"(own));      // x & AT_BIN | own
    return place;
}

__device__ void make_plain(const Codebook &c, Plain *plain) {
    for (int i = threadIdx.x; i < BINS * COPIES; i += blockDim.x) {
        unsigned int at = i / COPIES << LOG_BIN_BYTES;
        Plain bin = {__int_as_float(INFINITE), 0};
#pragma unroll 1
        for (int k = 0; k < 15; k++) {
            unsigned int place = plain_place(c.threshold[k], 0);
            bin.code += place < at;
            bin.threshold = place == at ? c.threshold[k] : bin.threshold;
        }
        plain[i] = bin;
    }
    __syncthreads();
}

// Whether the codes are the ranks.
__device__ bool ascends(const Codebook &c) {
    bool so = !c.sign_magnitude;
#pragma unroll 1
    for (int i = 0; i < 16; i++) {
        so &= c.code_of_rank[i] == i;
    }
    return so;
}

// The largest magnitude, as the bits of a float.
__device__ __forceinline__ int largest_of(const uint4 &p) {
    unsigned int most = largest_pair(p);
    return max(most << 16, most & 0xffff0000);
}

// Threads that have a block of the size for which the quick way is.
#define PLAIN_GROUP 8
// Turns that are read ahead.
#define TURNS 3

// `pieces` of eight elements, all whole and aligned: 32 of them are a warp's at a time.
__device__ __forceinline__ void quantize_plain(const bf16 *x, unsigned int pieces, const Plain *plain,
        const Encoder &encoder, float *absmax) {
    unsigned int at = blockIdx.x * blockDim.x + threadIdx.x, step = gridDim.x * blockDim.x;
    bool first = threadIdx.x % PLAIN_GROUP == 0;
    unsigned int own = threadIdx.x % COPIES * sizeof(Plain);
    const uint4 *from = (const uint4 *)x;
    previous_has_ended();
    uint4 ahead[TURNS];
#pragma unroll
    for (int i = 0; i < TURNS; i++) {
        ahead[i] = from[min(at + i * step, pieces - 1)];
    }
#pragma unroll 1
    while (at < pieces) {
#pragma unroll
        for (int turn = 0; turn < TURNS; turn++, at += step) {
            if (at >= pieces) {
                return;
            }
            const uint4 p = ahead[turn];
            ahead[turn] = from[min(at + TURNS * step, pieces - 1)];
            int most = largest_of(p);
#pragma unroll
            for (int o = 1; o < PLAIN_GROUP; o *= 2) {
                most = max(most, __shfl_xor_sync(0xffffffff, most, o));
            }
            float constant = __int_as_float(most > INFINITE ? NOT_A_NUMBER : most), reciprocal = __frcp_rn(constant);
            if (first) {
                absmax[at / PLAIN_GROUP] = constant;
            }
            const float v[PIECE] = {low_half(p.x), high_half(p.x), low_half(p.y), high_half(p.y), low_half(p.z),
                    high_half(p.z), low_half(p.w), high_half(p.w)};
            unsigned int word = 0;
            if (!isinf(reciprocal) && most < INFINITE) {
#pragma unroll
                for (int i = PIECE - 1; i >= 0; i--) {
                    float y = v[i ^ 1] * reciprocal;
                    Plain bin = *(const Plain *)((const char *)plain + plain_place(y, own));
                    // The sign of the difference is whether y is above.
                    word = (word << 4) + bin.code + (__float_as_uint(bin.threshold - y) >> 31);
                }
            } else {
                float values[PIECE];
#pragma unroll
                for (int i = 0; i < PIECE; i++) {
                    values[i] = v[i];
                }
                word = encoder.slowly(values, constant, reciprocal);
            }
            ((unsigned int *)encoder.packed)[at] = word;
        }
    }
}

// A group of 4 to 32 threads has a block, each 8 elements, and passes over it where it is longer than 256. Shorter
// blocks are read a turn ahead.
template <class T>
__device__ void quantize4(const T *x, long n, const Codebook *codebook, int blocksize, unsigned char *packed,
        float *absmax) {
    __shared__ Codebook own_codebook;
    __shared__ Bins bins;
    if (threadIdx.x < sizeof(Codebook) / 4) {
        ((unsigned int *)&own_codebook)[threadIdx.x] = ((const unsigned int *)codebook)[threadIdx.x];
    }
    __syncthreads();
    codebook = &own_codebook;
    make_bins(*codebook, bins);
    Encoder encoder{*codebook, bins, codebook->sign_magnitude ? MAGNITUDE : ~0u, bins.multiplier, bins.offset,
            aligned(packed, 4), packed, n};
    bool vector = aligned(x, 16);
    int group = min(blocksize / PIECE, 32), log_group = 31 - __clz(group);
    int passes = blocksize / (PIECE * group);
    long blocks = (n + blocksize - 1) / blocksize;
    long thread = (long)blockIdx.x * blockDim.x + threadIdx.x, threads = (long)gridDim.x * blockDim.x;
    int lane = threadIdx.x % group;
    // Rounded up so that all threads of a warp take part in every shuffle.
    long all = (blocks * group + 31) / 32 * 32;
    auto most_of_group = [&](int most) {
        for (int o = group / 2; o > 0; o /= 2) {
            most = max(most, __shfl_xor_sync(0xffffffff, most, o));
        }
        return most;
    };
    auto constant_of = [&](int most, long block) {
        float constant = __int_as_float(most > INFINITE ? NOT_A_NUMBER : most);
        if (lane == 0 && block < blocks) {
            absmax[block] = constant;
        }
        return constant;
    };
    float v[PIECE];
    if (passes == 1) {
        long done = 0;
        if constexpr (PLAIN<T>) {
            // Indices of pieces fit into 32 bits.
            if (group == PLAIN_GROUP && n >= WARP * PIECE && vector && encoder.words && ascends(*codebook)) {
                __shared__ Plain plain[BINS * COPIES];
                make_plain(*codebook, plain);
                done = n / (WARP * PIECE) * WARP;
                quantize_plain(x, (unsigned int)done, plain, encoder, absmax);
            }
        }
        previous_has_ended();
        Raw<T> ahead;
        ahead.load(x, (done + thread) * PIECE, n, vector);
        for (long at = done + thread; at < all; at += threads) {
            ahead.floats(v);
            ahead.load(x, (at + threads) * PIECE, n, vector);
            int most = most_of_group(largest_magnitude(v));
            float constant = constant_of(most, at >> log_group);
            encoder.write(v, at * PIECE, most, constant, __frcp_rn(constant));
        }
        return;
    }
    previous_has_ended();
    Raw<T> raw;
    for (long at = thread; at < all; at += threads) {
        long block = at >> log_group, from = block * blocksize + lane * PIECE;
        int most = 0;
#pragma unroll 1
        for (int pass = 0; pass < passes; pass++) {
            raw.load(x, from + (long)pass * group * PIECE, n, vector);
            raw.floats(v);
            most = max(most, largest_magnitude(v));
        }
        most = most_of_group(most);
        float constant = constant_of(most, block), reciprocal = __frcp_rn(constant);
#pragma unroll 1
        for (int pass = 0; pass < passes; pass++) {
            raw.load(x, from + (long)pass * group * PIECE, n, vector);
            raw.floats(v);
            encoder.write(v, from + (long)pass * group * PIECE, most, constant, reciprocal);
        }
    }
}

#define VARIANT(T, SUFFIX)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256) quantize4_##SUFFIX(const T *x, long n, const Codebook *codebook, \
            int blocksize, unsigned char *packed, float *absmax) {                                                     \
        next_may_begin();                                                                                              \
        quantize4(x, n, codebook, blocksize, packed, absmax);                                                          \
    }

VARIANT(f32, f32)
VARIANT(f64, f64)
VARIANT(bf16, bf16)
VARIANT(f16, f16)
