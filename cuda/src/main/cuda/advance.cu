// The next step of decoding by the tokens that were chosen; see DecoderKernels. A thread a sequence.
// chosen, tokens, positions, kvLen, lengths [S]; history [S, cols].
#include "grid.cuh"

extern "C" __global__ void __launch_bounds__(256) advance(const int* chosen, int* tokens, int* positions, int* kvLen,
        int* history, int* lengths, int sequences, int cols) {
    next_may_begin();
    previous_has_ended();
    int s = blockIdx.x * blockDim.x + threadIdx.x;
    if (s >= sequences) {
        return;
    }
    int token = chosen[s];
    tokens[s] = token;
    positions[s] = kvLen[s]++;
    int length = lengths[s]++;
    if (length < cols) {
        history[(long long) s * cols + length] = token;
    }
}
