// Instructions by name: asynchronous copies to shared memory, ldmatrix and mma.sync (compute capability 8.0 and newer).
// PTX ISA, chapters "Data Movement" and "Warp Level Matrix".
#pragma once

#include "types.cuh"

#define LOG2E 1.4426950408889634f
#define INFINITY __int_as_float(0x7f800000)

__device__ __forceinline__ char* dynamic_shared() {
    extern __shared__ __align__(1024) char memory[];
    return memory;
}

__device__ __forceinline__ u32 shared_address(const void* p) {
    return (u32) __cvta_generic_to_shared(p);
}

// 16 bytes to shared memory; zeros, and nothing is read, where !valid.
__device__ __forceinline__ void copy16(u32 to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

__device__ __forceinline__ void copy4(u32 to, const void* from, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to), "l"(from), "r"(valid ? 4 : 0) : "memory");
}

__device__ __forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most `pending` of this thread's committed groups are under way.
template <int pending>
__device__ __forceinline__ void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

__device__ __forceinline__ void copy_wait_all() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 and gets elements
// (l / 4, 2(l % 4)) and the next of each.
__device__ __forceinline__ void load_matrices(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

__device__ __forceinline__ void load_matrices_transposed(u32 (&r)[4], u32 address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

// c[16, 8] += a[16, 16]·b[16, 8]. With g = lane / 4 and t = lane % 4 a lane holds, each register of a and b two values
// that follow each other in k (which may be numbered in any order, the same in a and b):
//
//   a[0]  a[g][2t, 2t+1]      a[2]  a[g][2t+8, 2t+9]        b0  b[2t, 2t+1][g]       c[0], c[1]  c[g][2t, 2t+1]
//   a[1]  a[g+8][2t, 2t+1]    a[3]  a[g+8][2t+8, 2t+9]      b1  b[2t+8, 2t+9][g]     c[2], c[3]  c[g+8][2t, 2t+1]
__device__ __forceinline__ void mma(float (&c)[4], const u32 (&a)[4], u32 b0, u32 b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
                 "{%0, %1, %2, %3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ float low_half(u32 x) {
    return __uint_as_float(x << 16);
}

__device__ __forceinline__ float high_half(u32 x) {
    return __uint_as_float(x & 0xffff0000u);
}

// 2^x within 2 ulp; 0 for -infinity.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Orders what this thread wrote and read before against what follows, as other blocks see it.
__device__ __forceinline__ void fence_device() {
    asm volatile("fence.acq_rel.gpu;" ::: "memory");
}

// Values that another block wrote in this launch: past the first-level cache.
__device__ __forceinline__ float4 load_uncached(const float* p) {
    return __ldcg((const float4*) p);
}

// 16 bytes that are read once: they are kept out of the first-level cache.
__device__ __forceinline__ uint4 load_once(const void* p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(p));
    return v;
}

// Of eight elements of bfloat16 the largest magnitude of those in lower halves and that of those in upper ones; NaN where
// one is.
__device__ __forceinline__ unsigned int largest_pair(const uint4 &p) {
    unsigned int most = p.x & 0x7fff7fff;
    asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(p.y & 0x7fff7fff));
    asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(p.z & 0x7fff7fff));
    asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(p.w & 0x7fff7fff));
    return most;
}
