// Tensor cores and asynchronous copies, from compute capability 8.0 on.
//
// mma_bf16 multiplies a 16 x 16 tile A with a 16 x 8 tile B and adds to the 16 x 8 tile C. With g = lane / 4 and
// t = lane % 4, a lane holds, each register two values that follow each other in k:
//
//   a[0]  A[g][2t, 2t+1]      a[2]  A[g][2t+8, 2t+9]        b[0]  B[2t, 2t+1][g]       c[0], c[1]  C[g][2t, 2t+1]
//   a[1]  A[g+8][2t, 2t+1]    a[3]  A[g+8][2t+8, 2t+9]      b[1]  B[2t+8, 2t+9][g]     c[2], c[3]  C[g+8][2t, 2t+1]
//
// k may be numbered in any order, as long as it is the same in A and B.
#pragma once

__device__ inline void mma_bf16(float *c, const unsigned int *a, unsigned int b0, unsigned int b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline unsigned int shared_address(const void *p) {
    return (unsigned int)__cvta_generic_to_shared(p);
}

// Four 8 x 8 tiles of 16-bit elements: lane i gives the address of row i % 8 of tile i / 8 and gets row g, elements
// 2t and 2t + 1 of each tile.
__device__ inline void load_matrices(unsigned int *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)));
}

// The same, each tile transposed: a lane gets rows 2t and 2t + 1 of column g.
__device__ inline void load_matrices_transposed(unsigned int *r, const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)));
}

// Copies 16 bytes to shared memory, or writes zeros there.
__device__ inline void copy_async(void *shared, const void *global, bool there) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
                 :: "r"(shared_address(shared)), "l"(global), "r"(there ? 16 : 0));
}

__device__ inline void copies_begun() {
    asm volatile("cp.async.commit_group;");
}

// Waits until all but the n groups begun last have arrived.
template <int n>
__device__ inline void copies_arrived() {
    asm volatile("cp.async.wait_group %0;" :: "n"(n));
}

// A barrier of `threads` threads of the block, number 1 to 15.
__device__ inline void barrier(int number, int threads) {
    asm volatile("bar.sync %0, %1;" :: "r"(number), "r"(threads) : "memory");
}

// 16 bytes that are read once: they are kept out of the first-level cache.
__device__ inline uint4 load_once(const void *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}
