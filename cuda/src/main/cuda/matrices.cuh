// Matrices in 4 bits that take the same x in one launch, as CudaBlockwise lays them out for a kernel.
#pragma once
#include "types.cuh"

#define MOST_MATRICES 3

struct Matrix4 {
    const unsigned char *packed;
    const void *absmax;         // float, or codes of the signed dynamic map
    const float *absmax2;       // null where not nested
    const float *offset;
    const bf16 *residual;       // [m, out] or null
    const bf16 *bias;           // [out] or null
    bf16 *y;                    // [m, out]
    const float *b;             // [out, rank], the adapter's second matrix
    const float *u;             // [m, u_columns], of which the first `rank` are the adapter's
    int out;
    int first_tile;             // the largest int in an entry that is not used
    int rank;                   // 0: no adapter
    int u_columns;
    float scale;
    int unused;
};

struct Matrices {
    Matrix4 of[MOST_MATRICES];
    int tiles;                  // of all
    int in;
    int log_blocksize;
    int adapted;                // whether one has an adapter
};
