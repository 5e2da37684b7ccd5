// options: --fmad=false
//
// Block-wise quantization (qlora4j.blockwise.BlockwiseKernels; ScalarBlockwise is the reference). Results are
// bit-identical with the CPU's: every operation is rounded on its own, subnormals are kept, divisions are exact.
//
//   quantize4    x [n] -> packed [ceil(n/2)], absmax [b]       code of x * (1 / absmax)
//   dequantize4  packed, constants -> out [n]                  codebook[code] * scale
//   mean         absmax [b] -> mean [1]                        double sums over chunks of 256 in order
//   quantize8    x [n] - offset -> codes [n], absmax [b]       nearest value of a map of 256
//   dequantize8  codes [n] -> out [n]                          map[code] * absmax + offset
#include "codebook.cuh"
#include "numbers.cuh"

#define MAGNITUDE 0x7fffffff
#define INFINITE 0x7f800000
#define NOT_A_NUMBER 0x7fc00000
#define MEAN_CHUNK 256
#define MAP_SIZE 256

// Elements a thread holds.
#define PIECE 8

// Reads up to eight elements; those beyond the end are 0, which changes no absmax.
template <class T>
__device__ void load_piece(const T *x, long from, long n, bool vector, float shift, float *v) {
    if (vector && from + PIECE <= n) {
        load8(x + from, v);
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            v[i] -= shift;
        }
    } else {
#pragma unroll
        for (int i = 0; i < PIECE; i++) {
            v[i] = from + i < n ? to_f32(x[from + i]) - shift : 0;
        }
    }
}

__device__ int largest_magnitude(const float *v) {
    int most = 0;
    for (int i = 0; i < PIECE; i++) {
        most = max(most, __float_as_int(v[i]) & MAGNITUDE);
    }
    return most;
}

__device__ float normalize(float x, float absmax, float reciprocal) {
    if (absmax == 0) {
        return 0;
    }
    return isinf(reciprocal) ? (float)((double)x / (double)absmax) : x * reciprocal;
}

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

__device__ void make_bins(const Codebook &c, Bins &bins) {
    float multiplier = c.sign_magnitude ? 30 : 15, offset = c.sign_magnitude ? EIGHTHS : EIGHTHS + 16;
    if (threadIdx.x < BINS) {
        unsigned int b = threadIdx.x, below = 0;
        float threshold = __int_as_float(INFINITE);
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

// A group of 4 to 32 threads has a block, each 8 elements, and passes over it where it is longer than 256. Shorter
// blocks are read two turns ahead; wider elements one, to need fewer registers.
template <class T>
__device__ void quantize4(const T *x, long n, const Codebook *codebook, int blocksize, unsigned char *packed,
        float *absmax) {
    const int turns_ahead = sizeof(T) <= 2 ? 2 : 1;
    __shared__ Bins bins;
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
        Raw<T> ahead[turns_ahead];
#pragma unroll
        for (int i = 0; i < turns_ahead; i++) {
            ahead[i].load(x, (thread + i * threads) * PIECE, n, vector);
        }
        for (long at = thread; at < all;) {
#pragma unroll
            for (int i = 0; i < turns_ahead && at < all; i++, at += threads) {
                ahead[i].floats(v);
                ahead[i].load(x, (at + turns_ahead * threads) * PIECE, n, vector);
                int most = most_of_group(largest_magnitude(v));
                float constant = constant_of(most, at >> log_group);
                encoder.write(v, at * PIECE, most, constant, __frcp_rn(constant));
            }
        }
        return;
    }
    Raw<T> raw;
    for (long at = thread; at < all; at += threads) {
        long block = at >> log_group, from = block * blocksize + lane * PIECE;
        int most = 0;
        for (int pass = 0; pass < passes; pass++) {
            raw.load(x, from + (long)pass * group * PIECE, n, vector);
            raw.floats(v);
            most = max(most, largest_magnitude(v));
        }
        most = most_of_group(most);
        float constant = constant_of(most, block), reciprocal = __frcp_rn(constant);
        for (int pass = 0; pass < passes; pass++) {
            raw.load(x, from + (long)pass * group * PIECE, n, vector);
            raw.floats(v);
            encoder.write(v, from + (long)pass * group * PIECE, most, constant, reciprocal);
        }
    }
}

// A thread has four times eight elements, blockDim.x times eight apart.
template <class T>
__device__ void dequantize4(const unsigned char *packed, Constants c, const Codebook *codebook, long n, T *out) {
    __shared__ float value[16];
    if (threadIdx.x < 16) {
        value[threadIdx.x] = codebook->value[threadIdx.x];
    }
    __syncthreads();
    bool vector = aligned(packed, 4) && aligned(out, 16);
    const int unroll = 4;
    long first = (long)blockIdx.x * blockDim.x * PIECE * unroll + threadIdx.x * PIECE;
    unsigned int words[unroll];
    float scales[unroll];
#pragma unroll
    for (int u = 0; u < unroll; u++) {
        long at = first + u * PIECE * blockDim.x;
        if (vector && at + PIECE <= n) {
            words[u] = *(const unsigned int *)(packed + at / 2);
            scales[u] = block_scale(c, at >> c.log_blocksize);
        }
    }
#pragma unroll
    for (int u = 0; u < unroll; u++) {
        long at = first + u * PIECE * blockDim.x;
        if (vector && at + PIECE <= n) {
            float v[PIECE];
#pragma unroll
            for (int i = 0; i < PIECE; i++) {
                v[i] = value[words[u] >> (i % 2 == 0 ? 4 * i + 4 : 4 * i - 4) & 15] * scales[u];
            }
            store8(out + at, v);
        } else {
            for (int i = 0; i < PIECE && at + i < n; i++) {
                int code = packed[(at + i) / 2] >> (i % 2 == 0 ? 4 : 0) & 15;
                out[at + i] = from_f32<T>(value[code] * block_scale(c, (at + i) >> c.log_blocksize));
            }
        }
    }
}

// A thread sums a chunk.
extern "C" __global__ void mean_chunks(const float *absmax, long n, double *sums) {
    long chunk = (long)blockIdx.x * blockDim.x + threadIdx.x, from = chunk * MEAN_CHUNK;
    if (from >= n) {
        return;
    }
    double sum = 0;
    if (aligned(absmax, 16) && from + MEAN_CHUNK <= n) {
#pragma unroll 4
        for (int i = 0; i < MEAN_CHUNK; i += 8) {
            float v[8];
            load8(absmax + from + i, v);
            for (int j = 0; j < 8; j++) {
                sum += v[j];
            }
        }
    } else {
        for (long i = from; i < min(from + MEAN_CHUNK, n); i++) {
            sum += absmax[i];
        }
    }
    sums[chunk] = sum;
}

// The exponent of the lowest set bit of a finite number that is not 0.
__device__ int lowest_bit(double x) {
    long long bits = __double_as_longlong(x);
    int exponent = (int)(bits >> 52 & 0x7ff);
    long long mantissa = (bits & 0xfffffffffffffLL) | (exponent > 0 ? 1LL << 52 : 0);
    return max(exponent, 1) - 1075 + __ffsll(mantissa) - 1;
}

// One block of 1024 threads adds the chunks' sums. The contract's order is from the first to the last, one after the
// other. Where all sums are multiples of 2^q and their magnitudes add up to less than 2^(53+q), no addition rounds in
// any order, and the threads may share the work: nearly always.
extern "C" __global__ void mean_total(const double *sums, long chunks, long n, float *mean) {
    __shared__ double total[1024];
    __shared__ int lowest[1024];
    __shared__ double magnitude[1024];
    int t = threadIdx.x;
    double sum = 0, magnitudes = 0;
    int low = 2000;
    for (long i = t; i < chunks; i += blockDim.x) {
        double s = sums[i];
        sum += s;
        magnitudes += fabs(s);
        low = s == 0 || !isfinite(s) ? low : min(low, lowest_bit(s));
    }
    total[t] = sum;
    magnitude[t] = magnitudes;
    lowest[t] = low;
    for (int half = blockDim.x / 2; half > 0; half /= 2) {
        __syncthreads();
        if (t < half) {
            total[t] += total[t + half];
            magnitude[t] += magnitude[t + half];
            lowest[t] = min(lowest[t], lowest[t + half]);
        }
    }
    if (t != 0) {
        return;
    }
    // A factor of two covers the rounding of the magnitudes' own sum. NaN and infinity fail the comparison.
    bool exact = magnitude[0] < ldexp(1.0, min(lowest[0] + 52, 1000));
    if (!exact) {
        total[0] = 0;
        for (long i = 0; i < chunks; i++) {
            total[0] += sums[i];
        }
    }
    *mean = n == 0 ? 0 : (float)(total[0] / (double)n);
}

// The number of midpoints of neighbours that x exceeds.
__device__ int map_code(const float *thresholds, float x) {
    int code = 0;
    for (int step = MAP_SIZE / 2; step > 0; step /= 2) {
        code += x > thresholds[code + step - 1] ? step : 0;
    }
    return code;
}

template <class T>
__device__ void quantize8(const T *x, long n, const float *offset, const float *map, int blocksize,
        unsigned char *codes, float *absmax) {
    __shared__ float thresholds[MAP_SIZE];
    for (int i = threadIdx.x; i < MAP_SIZE - 1; i += blockDim.x) {
        thresholds[i] = (map[i] + map[i + 1]) * 0.5f;
    }
    __syncthreads();
    float shift = offset == nullptr ? 0 : *offset;
    bool vector = aligned(x, 16);
    int group = min(blocksize / PIECE, 32);
    int passes = blocksize / (PIECE * group);
    long blocks = (n + blocksize - 1) / blocksize;
    long at = (long)blockIdx.x * blockDim.x + threadIdx.x;
    long block = at / group, from = block * blocksize + at % group * PIECE;
    float v[PIECE];
    int most = 0;
    for (int pass = 0; pass < passes; pass++) {
        load_piece(x, from + (long)pass * group * PIECE, n, vector, shift, v);
        most = max(most, largest_magnitude(v));
    }
    for (int o = group / 2; o > 0; o /= 2) {
        most = max(most, __shfl_xor_sync(0xffffffff, most, o));
    }
    if (block >= blocks) {
        return;
    }
    float constant = __int_as_float(most > INFINITE ? NOT_A_NUMBER : most);
    float reciprocal = __fdiv_rn(1, constant);
    if (at % group == 0) {
        absmax[block] = constant;
    }
    for (int pass = 0; pass < passes; pass++) {
        long first = from + (long)pass * group * PIECE;
        if (passes > 1) {
            load_piece(x, first, n, vector, shift, v);
        }
        for (int i = 0; i < PIECE && first + i < n; i++) {
            codes[first + i] = map_code(thresholds, normalize(v[i], constant, reciprocal));
        }
    }
}

template <class T>
__device__ void dequantize8(const unsigned char *codes, const float *absmax, const float *offset, const float *map,
        int log_blocksize, long n, T *out) {
    long i = (long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) {
        float v = map[codes[i]] * absmax[i >> log_blocksize];
        out[i] = from_f32<T>(offset == nullptr ? v : v + *offset);
    }
}

#define VARIANTS(T, SUFFIX)                                                                                            \
    extern "C" __global__ void __launch_bounds__(256) quantize4_##SUFFIX(const T *x, long n, const Codebook *codebook, \
            int blocksize, unsigned char *packed, float *absmax) {                                                     \
        quantize4(x, n, codebook, blocksize, packed, absmax);                                                          \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) dequantize4_##SUFFIX(const unsigned char *packed,                \
            const void *absmax, const float *absmax2, const float *offset, const float *map, int log_blocksize,        \
            const Codebook *codebook, long n, T *out) {                                                                \
        dequantize4(packed, Constants{absmax, absmax2, offset, map, log_blocksize}, codebook, n, out);                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) quantize8_##SUFFIX(const T *x, long n, const float *offset,      \
            const float *map, int blocksize, unsigned char *codes, float *absmax) {                                    \
        quantize8(x, n, offset, map, blocksize, codes, absmax);                                                        \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(256) dequantize8_##SUFFIX(const unsigned char *codes,                 \
            const float *absmax, const float *offset, const float *map, int log_blocksize, long n, T *out) {           \
        dequantize8(codes, absmax, offset, map, log_blocksize, n, out);                                                \
    }

VARIANTS(f32, f32)
VARIANTS(f64, f64)
VARIANTS(bf16, bf16)
VARIANTS(f16, f16)
