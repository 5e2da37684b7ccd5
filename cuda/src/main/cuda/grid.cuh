// Kernels of a recorded step that begin before the kernel in front of them has ended (compute capability 9.0). PTX for
// 8.0 has no instructions for it: what is written here is a comment there, in whose place CudaModules puts them.
#pragma once

// The next kernel may begin as soon as all blocks have come here.
__device__ __forceinline__ void next_may_begin() {
    asm volatile("//grid.launch_dependents" ::: "memory");
}

// Waits until all kernels in front have ended and what they wrote can be seen. Before it a kernel may read only what no
// kernel of the step writes, and must write nothing. All threads call it.
__device__ __forceinline__ void previous_has_ended() {
    asm volatile("//grid.wait" ::: "memory");
}

// Asks for the 128 bytes at p to be brought to the second-level cache.
__device__ __forceinline__ void prefetch(const void *p) {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}
