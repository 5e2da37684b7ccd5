// Noise on embeddings, h [N, C] += u * magnitude of the row's sequence; see qlora4j.model.EmbeddingNoise. Four features a
// thread: one call of the generator.
#include "philox.cuh"
#include "types.cuh"

template <typename T>
__device__ void add(double alpha, unsigned long long seed, unsigned module, const int* step, const int* samples,
        const int* positions, const int* cu, int sequences, T* h, int rows, int c) {
    int groups = (c + 3) / 4;
    long long at = (long long) blockIdx.x * blockDim.x + threadIdx.x;
    int row = (int) (at / groups);
    if (row >= rows) {
        return;
    }
    // The last sequence that begins at or before the row.
    int low = 0, high = sequences - 1;
    while (low < high) {
        int middle = (low + high + 1) / 2;
        if (cu[middle] <= row) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    int length = cu[low + 1] - cu[low];
    float magnitude = (float) __ddiv_rn(alpha, __dsqrt_rn((double) length * c));
    int group = (int) (at % groups);
    uint4 w = philox(seed, group | module << 16, positions[row], samples[row], *step);
    unsigned words[4] = {w.x, w.y, w.z, w.w};
    h += (long long) row * c;
#pragma unroll
    for (int k = 0; k < 4; k++) {
        int j = 4 * group + k;
        if (j < c) {
            float u = 2 * ((words[k] >> 8) * 0x1p-24f) - 1;
            h[j] = from_f32<T>(__fadd_rn(to_f32(h[j]), __fmul_rn(u, magnitude)));
        }
    }
}

#define VARIANT(T)                                                                                                     \
    extern "C" __global__ void __launch_bounds__(256) embedding_noise_##T(double alpha, unsigned long long seed,       \
            unsigned module, const int* step, const int* samples, const int* positions, const int* cu, int sequences,  \
            T* h, int rows, int c) {                                                                                   \
        add<T>(alpha, seed, module, step, samples, positions, cu, sequences, h, rows, c);                              \
    }
VARIANT(f32)
VARIANT(bf16)
