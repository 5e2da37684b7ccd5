// options: --fmad=false
//
// Block-wise quantization to 8 bits, as that of the constants of a 4-bit tensor, and what is subtracted from them before.
//
//   mean         absmax [b] -> mean [1]                        double sums over chunks of 256 in order
//   quantize8    x [n] - offset -> codes [n], absmax [b]       nearest value of a map of 256
//   dequantize8  codes [n] -> out [n]                          map[code] * absmax + offset
#include "blockwise.cuh"
#include "grid.cuh"

#define MEAN_CHUNK 256
#define MAP_SIZE 256

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

// The exponent of the lowest set bit of a finite number that is not 0.
__device__ int lowest_bit(double x) {
    long long bits = __double_as_longlong(x);
    int exponent = (int)(bits >> 52 & 0x7ff);
    long long mantissa = (bits & 0xfffffffffffffLL) | (exponent > 0 ? 1LL << 52 : 0);
    return max(exponent, 1) - 1075 + __ffsll(mantissa) - 1;
}

// A sum in float64 that several threads share. The contract's order is from the first term to the last, one after the
// other. Where all terms are multiples of 2^q and their magnitudes add up to less than 2^(53+q), no addition rounds in any
// order, and the threads may share the work: nearly always.
struct SharedSum {
    double sum = 0, magnitude = 0;
    int lowest = 2000;

    __device__ void add(double x) {
        sum += x;
        magnitude += fabs(x);
        lowest = x == 0 || !isfinite(x) ? lowest : min(lowest, lowest_bit(x));
    }

    // Of the `lanes` lanes that follow each other, in each of them.
    __device__ void over_lanes(int lanes) {
        for (int o = lanes / 2; o > 0; o /= 2) {
            sum += __shfl_xor_sync(0xffffffff, sum, o);
            magnitude += __shfl_xor_sync(0xffffffff, magnitude, o);
            lowest = min(lowest, __shfl_xor_sync(0xffffffff, lowest, o));
        }
    }

    // A factor of two covers the rounding of the magnitudes' own sum. NaN and infinity fail the comparison.
    __device__ bool exact() const {
        return magnitude < ldexp(1.0, min(lowest + 52, 1000));
    }
};

// Eight lanes sum a chunk.
#define SHARE 8

extern "C" __global__ void __launch_bounds__(256) mean_chunks(const float *absmax, long n, double *sums) {
    next_may_begin();
    previous_has_ended();
    long thread = (long)blockIdx.x * blockDim.x + threadIdx.x, chunk = thread / SHARE, from = chunk * MEAN_CHUNK;
    const int each = MEAN_CHUNK / SHARE;
    SharedSum s;
    bool vector = aligned(absmax, 16) && from + MEAN_CHUNK <= n;
    if (vector) {
        float4 v[each / 4];
#pragma unroll
        for (int i = 0; i < each / 4; i++) {
            v[i] = ((const float4 *)(absmax + from))[i * SHARE + thread % SHARE];
        }
#pragma unroll
        for (int i = 0; i < each / 4; i++) {
            s.add(v[i].x);
            s.add(v[i].y);
            s.add(v[i].z);
            s.add(v[i].w);
        }
    }
    s.over_lanes(SHARE);
    if (thread % SHARE != 0 || from >= n) {
        return;
    }
    if (!vector || !s.exact()) {
        s.sum = 0;
        for (long i = from; i < min(from + MEAN_CHUNK, n); i++) {
            s.sum += absmax[i];
        }
    }
    sums[chunk] = s.sum;
}

// One block of 1024 threads adds the chunks' sums.
extern "C" __global__ void __launch_bounds__(1024) mean_total(const double *sums, long chunks, long n, float *mean) {
    __shared__ double sum[32], magnitude[32];
    __shared__ int lowest[32];
    next_may_begin();
    previous_has_ended();
    SharedSum s;
    for (long i = threadIdx.x; i < chunks; i += blockDim.x) {
        s.add(sums[i]);
    }
    s.over_lanes(32);
    if (threadIdx.x % 32 == 0) {
        int warp = threadIdx.x / 32;
        sum[warp] = s.sum, magnitude[warp] = s.magnitude, lowest[warp] = s.lowest;
    }
    __syncthreads();
    if (threadIdx.x >= 32) {
        return;
    }
    s.sum = sum[threadIdx.x], s.magnitude = magnitude[threadIdx.x], s.lowest = lowest[threadIdx.x];
    s.over_lanes(32);
    if (threadIdx.x != 0) {
        return;
    }
    if (!s.exact()) {
        s.sum = 0;
        for (long i = 0; i < chunks; i++) {
            s.sum += sums[i];
        }
    }
    *mean = n == 0 ? 0 : (float)(s.sum / (double)n);
}

// Midpoint i stands at i + i / 32: those that a search may meet at once are in different banks.
#define PLACES (MAP_SIZE + MAP_SIZE / 32)

__device__ __forceinline__ int place(int i) {
    return i + (i >> 5);
}

// The number of midpoints of neighbours that x exceeds.
__device__ __forceinline__ int map_code(const float *thresholds, float x) {
    int code = 0;
#pragma unroll
    for (int step = MAP_SIZE / 2; step > 0; step /= 2) {
        code += x > thresholds[place(code + step - 1)] ? step : 0;
    }
    return code;
}

template <class T>
__device__ void quantize8(const T *x, long n, const float *offset, const float *map, int blocksize,
        unsigned char *codes, float *absmax) {
    __shared__ float thresholds[PLACES];
    next_may_begin();
    for (int i = threadIdx.x; i < MAP_SIZE - 1; i += blockDim.x) {
        thresholds[place(i)] = (map[i] + map[i + 1]) * 0.5f;
    }
    __syncthreads();
    previous_has_ended();
    float shift = offset == nullptr ? 0 : *offset;
    bool vector = aligned(x, 16), words = aligned(codes, 8);
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
        unsigned long long word = 0;
#pragma unroll 4
        for (int i = 0; i < PIECE; i++) {
            word |= (unsigned long long)map_code(thresholds, normalize(v[i], constant, reciprocal)) << 8 * i;
        }
        if (words && first + PIECE <= n) {
            *(unsigned long long *)(codes + first) = word;
        } else {
            for (int i = 0; i < PIECE && first + i < n; i++) {
                codes[first + i] = word >> 8 * i;
            }
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
