// Copying a row of memory with the threads of a block.
#pragma once

#include "elements.cuh"

template <typename P>
__device__ inline void copyPieces(const char* from, char* to, i64 bytes) {
    for (i64 i = threadIdx.x; i < bytes / (i64) sizeof(P); i += blockDim.x) {
        ((P*) to)[i] = ((const P*) from)[i];
    }
}

// to[0 .. bytes) = from[0 .. bytes); bytes is even.
__device__ inline void copyRow(const char* from, char* to, i64 bytes) {
    u64 bits = (u64) from | (u64) to | (u64) bytes;
    if (bits % 16 == 0) {
        copyPieces<uint4>(from, to, bytes);
    } else if (bits % 4 == 0) {
        copyPieces<unsigned>(from, to, bytes);
    } else {
        copyPieces<unsigned short>(from, to, bytes);
    }
}
