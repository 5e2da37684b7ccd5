// Element types of tensors and their conversion to and from float, the same values as DType.get and DType.set; short
// names of integers.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define WARP 32

typedef unsigned int u32;
typedef long long i64;
typedef unsigned long long u64;
typedef double f64;
typedef float f32;
typedef __nv_bfloat16 bf16;
typedef __half f16;

__device__ __forceinline__ float to_f32(f64 x) { return (float)x; }
__device__ __forceinline__ float to_f32(f32 x) { return x; }
__device__ __forceinline__ float to_f32(bf16 x) { return __bfloat162float(x); }
__device__ __forceinline__ float to_f32(f16 x) { return __half2float(x); }

// Nearest, ties to even. A NaN stays a NaN.
template <typename T> __device__ __forceinline__ T from_f32(float x);
template <> __device__ __forceinline__ f64 from_f32<f64>(float x) { return (double)x; }
template <> __device__ __forceinline__ f32 from_f32<f32>(float x) { return x; }
template <> __device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }

// The value of T nearest to x.
template <typename T> __device__ __forceinline__ float rounded(float x) { return to_f32(from_f32<T>(x)); }

// Two floats rounded to bfloat16, the first in the lower half.
__device__ __forceinline__ u32 pack_bf16(float lower, float upper) {
    u32 pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(upper), "f"(lower));
    return pair;
}
