// The tables of the 4-bit types, and the constants of a quantized tensor, as the host lays them out in device memory.
#pragma once

// A qlora4j.nf4.Codebook; the host fills it from there (CudaBlockwise).
struct Codebook {
    float value[16];        // of each code
    float threshold[16];    // ascending, of x or of |x|; unused ones are infinite
    int code_of_rank[16];
    int sign_magnitude;     // whether |x| is compared and bit 3 of a code is the sign
    int zero_code;
};

// A qlora4j.blockwise.QuantizedTensor's constants. Nested where absmax2 is not null.
struct Constants {
    const void *absmax;     // float, or codes in map
    const float *absmax2;
    const float *offset;
    const float *map;       // the 256 values of the signed dynamic map
    int log_blocksize;
};

#define LOG_NESTED_BLOCKSIZE 8

// The constant of block j. Each operation is rounded on its own.
__device__ inline float block_scale(const Constants &c, long j) {
    if (c.absmax2 == nullptr) {
        return ((const float *)c.absmax)[j];
    }
    float value = __ldg(c.map + ((const unsigned char *)c.absmax)[j]);
    return __fadd_rn(__fmul_rn(value, c.absmax2[j >> LOG_NESTED_BLOCKSIZE]), *c.offset);
}
