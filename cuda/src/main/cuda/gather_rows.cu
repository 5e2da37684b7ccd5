// out[i] = x[index[i]]: index [K], rows of rowBytes bytes; see DecoderKernels. A block a row.
#include "grid.cuh"
#include "fault.cuh"
#include "rows.cuh"

extern "C" __global__ void __launch_bounds__(256) gather_rows(const char* x, const int* index, char* out,
        i64 rowBytes, int rows, int4* faults) {
    next_may_begin();
    previous_has_ended();
    int i = index[blockIdx.x];
    if (i < 0 || i >= rows) {
        if (threadIdx.x == 0) {
            report(faults, BAD_INDEX, blockIdx.x, i, rows);
        }
        return;
    }
    copyRow(x + i * rowBytes, out + blockIdx.x * rowBytes, rowBytes);
}
