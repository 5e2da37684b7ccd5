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
    const float *a, *b;         // [rank, in] and [out, rank], the adapter's matrices
    float *u;                   // [m, u_columns], of which the first `rank` are the adapter's
    int out;
    int first_tile;             // the largest int in an entry that is not used
    int rank;                   // 0: no adapter
    int u_columns;
    float scale;
    int unused;
};

struct Matrices {
    Matrix4 of[MOST_MATRICES];
    const bf16 *norm;           // [in], the weight of an RMSNorm that x goes through first; or null
    float *inner;               // [m, all ranks, pieces], parts of u; null where u has been computed before
    unsigned int *arrived;      // two counts that are 0 between launches
    float eps;                  // the norm's
    int tiles;                  // of all
    int in;
    int log_blocksize;
    int adapted;                // whether one has an adapter
    int pieces;                 // into which a row of A is cut
    int gated;                  // 1: tiles of the first two matrices take turns, y of the first is silu(y0) * y1
    int unused;
};
