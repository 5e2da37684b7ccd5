// options: --fmad=false
// AdamW in bitsandbytes' formula with both moments in 8 bits (Dettmers et al. 2022), one block of 256 elements a block of
// 256 threads: qlora4j.optim.EightBitKernels says what is computed, ScalarEightBit is the reference. Every operation is
// rounded once, so that the bits are those of the other backends.
//
// maps: the values and the 255 midpoints of the signed map, then those of the unsigned one, 256 floats each.
#include "adamw.cuh"

#define BLOCK 256

// The larger of two numbers, and NaN where one is, as Math.max.
__device__ __forceinline__ float larger(float a, float b) {
    return a != a || b != b ? __int_as_float(0x7fc00000) : fmaxf(a, b);
}

// The largest of a block's numbers, none of them below 0.
__device__ float largest(float v, float *part) {
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        v = larger(v, __shfl_xor_sync(0xffffffff, v, lane));
    }
    if (threadIdx.x % 32 == 0) {
        part[threadIdx.x / 32] = v;
    }
    __syncthreads();
    for (int i = 0; i < BLOCK / 32; i++) {
        v = larger(v, part[i]);
    }
    return v;
}

// How many of the 255 midpoints x exceeds: the code of the nearest value. NaN: 0.
__device__ __forceinline__ int nearest(const float *midpoints, float x) {
    int code = 0;
#pragma unroll
    for (int step = BLOCK / 2; step > 0; step /= 2) {
        if (x > midpoints[code + step - 1]) {
            code += step;
        }
    }
    return code;
}

extern "C" __global__ void __launch_bounds__(BLOCK) adamw8_f32(float *params, const float *grads, unsigned char *codes1,
        unsigned char *codes2, float *absmax1, float *absmax2, const double *scalars, double lrScale, double beta1,
        double beta2, double epsilon, double weightDecay, const float *maps, long long n) {
    __shared__ float tables[4 * BLOCK];
    __shared__ float part1[BLOCK / 32], part2[BLOCK / 32];
    for (int i = 0; i < 4; i++) {
        tables[i * BLOCK + threadIdx.x] = maps[i * BLOCK + threadIdx.x];
    }
    __syncthreads();
    const float *signedValues = tables, *signedMidpoints = tables + BLOCK;
    const float *unsignedValues = tables + 2 * BLOCK, *unsignedMidpoints = tables + 3 * BLOCK;
    Constants<float> c = Bitsandbytes::constants<float>(Hyper{lrScale, beta1, beta2, epsilon, weightDecay}, scalars);
    long long i = (long long)blockIdx.x * BLOCK + threadIdx.x;
    bool inside = i < n;
    float m = 0, v = 0;
    if (inside) {
        float g = grads[i];
        bool finite = isfinite(g);
        m = signedValues[codes1[i]] * absmax1[blockIdx.x];
        v = unsignedValues[codes2[i]] * absmax2[blockIdx.x];
        if (finite) {
            float p = params[i];
            Bitsandbytes::update(c, p, g, m, v);
            params[i] = p;
        } else {
            m = 0;
            v = 0;
        }
    }
    float max1 = largest(fabsf(m), part1);
    float max2 = largest(v, part2);
    if (!inside) {
        return;
    }
    if (threadIdx.x == 0) {
        absmax1[blockIdx.x] = max1;
        absmax2[blockIdx.x] = max2;
    }
    int first = max1 == 0 ? nearest(signedMidpoints, 0) : nearest(signedMidpoints, m / max1);
    if (max1 != 0 && signbit(signedValues[first]) != signbit(m)) {
        first += m > 0 ? 1 : -1;
    }
    codes1[i] = first;
    codes2[i] = max2 == 0 ? 0 : nearest(unsignedMidpoints, v / max2);
}
