// What a kernel finds wrong in the data it is given. A kernel cannot throw: it leaves the first 16 bytes of host memory
// that the backend reads when it next waits for the device (CudaFaults), and goes on without touching memory that is
// not its own.
#pragma once

enum Fault {
    BAD_TOKEN = 1,      // row, token, rows of the table
    BAD_POSITION = 2,   // row, position, positions of the table
    BAD_LABEL = 3,      // row, label, vocabulary
    BAD_INDEX = 4,      // row, index, rows
    NAN_LOGIT = 5,      // row, token
    NO_DISTRIBUTION = 6 // row, 1 for +infinity, -1 for -infinity
};

__device__ inline void report(int4* faults, int fault, int row, int value, int limit) {
    *faults = make_int4(fault, row, value, limit);
    __threadfence_system();
}
