// options: --fmad=false
// to[i] = (T) from[i] for i < n: by way of float32, rounded to nearest, ties to even, as Tensor.copyFrom does.
// Grid: ceil(n / 1024) blocks of 256 threads, four elements a thread.
#include "types.cuh"

template <typename From, typename To>
__device__ __forceinline__ void convert(const From* __restrict__ from, To* __restrict__ to, long long n) {
    long long first = (long long)blockIdx.x * blockDim.x * 4 + threadIdx.x;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        long long i = first + (long long)k * blockDim.x;
        if (i < n) {
            to[i] = from_f32<To>(to_f32(from[i]));
        }
    }
}

#define CONVERT(FROM, TO)                                                                              \
    extern "C" __global__ void convert_##FROM##_##TO(const FROM* from, TO* to, long long n) {          \
        convert(from, to, n);                                                                          \
    }

CONVERT(f64, f32)
CONVERT(f64, bf16)
CONVERT(f64, f16)
CONVERT(f32, f64)
CONVERT(f32, bf16)
CONVERT(f32, f16)
CONVERT(bf16, f64)
CONVERT(bf16, f32)
CONVERT(bf16, f16)
CONVERT(f16, f64)
CONVERT(f16, f32)
CONVERT(f16, bf16)
