// Instructions of compute capability 9.0a by name: products of a warpgroup (wgmma), mbarriers, register budgets.
// PTX ISA, chapters "Asynchronous Warpgroup Level Matrix Instructions" and "mbarrier".
#pragma once
#include "ptx.cuh"

// ---- mbarriers, given by their address in shared memory ----

__device__ __forceinline__ void barrier_init(u32 barrier, int arrivals) {
    asm volatile("mbarrier.init.shared.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// After all barrier_init, by the thread that made them: the other block of a cluster and the copy engine may use them.
__device__ __forceinline__ void barriers_made() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// Arrives, and the phase ends when so many bytes have been copied, too.
__device__ __forceinline__ void barrier_expect(u32 barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u32 barrier) {
    asm volatile("mbarrier.arrive.shared.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives once all cp.async that this thread began before are complete.
__device__ __forceinline__ void barrier_arrive_after_copies(u32 barrier) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared.b64 [%0];" ::"r"(barrier) : "memory");
}

// Waits for the end of the phase of this parity.
__device__ __forceinline__ void barrier_wait(u32 barrier, int parity) {
    asm volatile("{\n"
                 ".reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared.b64 done, [%0], %1;\n"
                 "@!done bra again;\n"
                 "}" ::"r"(barrier),
                 "r"(parity)
                 : "memory");
}

// Makes what threads wrote to shared memory visible to wgmma.
__device__ __forceinline__ void fence_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Named barriers of some of a block's warps.
__device__ __forceinline__ void sync_threads(int id, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ void arrive_threads(int id, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int registers>
__device__ __forceinline__ void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

template <int registers>
__device__ __forceinline__ void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

// A ring's position: slot and parity of the n-th use.
template <int SLOTS>
struct Ring {
    int slot = 0, parity = 0;
    __device__ __forceinline__ void next() {
        if (++slot == SLOTS) {
            slot = 0;
            parity ^= 1;
        }
    }
};

// ---- wgmma: four warps, 64 rows; accumulators as in mma.sync, warp w with rows 16w .. 16w + 15 ----

__device__ __forceinline__ void wgmma_fence() {
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int pending>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(pending) : "memory");
}

// A matrix in shared memory with the 128-byte swizzle: rows of 64 elements (128 bytes), groups of eight rows 1024 bytes
// apart. `step` (transposed operands only) is the distance in bytes to the next 64 columns. Given as the low half of the
// descriptor; the matrix `bytes` further on is low + bytes / 16.
__device__ __forceinline__ u32 matrix(u32 address, u32 step = 0) {
    return (address & 0x3ffff) >> 4 | step >> 4 << 16;
}

__device__ __forceinline__ u64 descriptor(u32 low) {
    return (u64) (1024 >> 4 | 1 << 30) << 32 | low;
}

// The same value, but not known to be: what follows from it is computed again rather than kept in registers.
__device__ __forceinline__ u32 fresh(u32 x) {
    asm volatile("" : "+r"(x));
    return x;
}

// Keeps the compiler from moving uses of registers of a product that is under way.
template <int N>
__device__ __forceinline__ void hold(float (&x)[N]) {
#pragma unroll
    for (int i = 0; i < N; i++) {
        asm volatile("" : "+f"(x[i])::"memory");
    }
}

#define F8(d, i)                                                                                                          \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define F32S(d) F8(d, 0), F8(d, 8), F8(d, 16), F8(d, 24)
#define F64S(d) F32S(d), F8(d, 32), F8(d, 40), F8(d, 48), F8(d, 56)
#define D32                                                                                                               \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "                                              \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define D64                                                                                                               \
    D32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "                              \
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"

// c[64, 128] = a[64, 16]·b[128, 16]ᵀ (+ c where `add`), both in shared memory.
__device__ __forceinline__ void wgmma(float (&c)[64], u64 a, u64 b, bool add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" D64 "}, %64, %65, add, 1, 1, 0, 0;\n}"
                 : F64S(c)
                 : "l"(a), "l"(b), "r"((int) add));
}

// c[64, 64] = a[64, 16]·b[64, 16]ᵀ (+ c).
__device__ __forceinline__ void wgmma(float (&c)[32], u64 a, u64 b, bool add) {
    asm volatile("{\n.reg .pred add;\nsetp.ne.b32 add, %34, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" D32 "}, %32, %33, add, 1, 1, 0, 0;\n}"
                 : F32S(c)
                 : "l"(a), "l"(b), "r"((int) add));
}

// c[64, 128] += a[64, 16]·b[16, 128]; a in registers as in mma.sync, b in shared memory, transposed there.
__device__ __forceinline__ void wgmma(float (&c)[64], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {" D64 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 1;"
                 : F64S(c)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}

// c[64, 64] += a[64, 16]·b[16, 64].
__device__ __forceinline__ void wgmma(float (&c)[32], u32 a0, u32 a1, u32 a2, u32 a3, u64 b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" D32 "}, {%32, %33, %34, %35}, %36, 1, 1, 1, 1;"
                 : F32S(c)
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(b));
}
