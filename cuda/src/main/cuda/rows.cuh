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

// The cache's row of new row `row`: kvStart[s] + kvLen[s] - qLen + i of row i of sequence s; NO_ROW where it is of none.
constexpr int NO_ROW = -1 << 31;

__device__ inline int cacheRow(const int* cuQ, const int* kvStart, const int* kvLen, int sequences, int row) {
    int low = 0;
    int high = sequences;
    while (high - low > 1) {
        int middle = (low + high) / 2;
        if (cuQ[middle] <= row) {
            low = middle;
        } else {
            high = middle;
        }
    }
    // Of sequences without rows, which share a start, the search has found the last.
    return row < cuQ[low] || row >= cuQ[low + 1] ? NO_ROW : kvStart[low] + kvLen[low] - cuQ[low + 1] + row;
}
