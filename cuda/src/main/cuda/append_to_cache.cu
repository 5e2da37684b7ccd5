// New keys and values go behind those of each sequence in the cache: row i of sequence s to cache row
// kvStart[s] + kvLen[s] - qLen + i; see DecoderKernels. A block a row of k and v.
#include "grid.cuh"
#include "fault.cuh"
#include "rows.cuh"

// cuQ [S + 1], kvStart and kvLen [S]; rows of rowBytes bytes; cacheRows: rows of either cache.
extern "C" __global__ void __launch_bounds__(256) append_to_cache(const char* k, const char* v, const int* cuQ,
        const int* kvStart, const int* kvLen, char* kCache, char* vCache, i64 rowBytes, int sequences, int cacheRows,
        int4* faults) {
    next_may_begin();
    previous_has_ended();
    int row = blockIdx.x;
    int to = cacheRow(cuQ, kvStart, kvLen, sequences, row);
    if (to == NO_ROW) {
        return;
    }
    if (to < 0 || to >= cacheRows) {
        if (threadIdx.x == 0) {
            report(faults, BAD_INDEX, row, to, cacheRows);
        }
        return;
    }
    copyRow(k + row * rowBytes, kCache + to * rowBytes, rowBytes);
    copyRow(v + row * rowBytes, vCache + to * rowBytes, rowBytes);
}
