// device/: what every kernel stands on: the machine (this file), constants, elements of tensors and operands, teams of
// threads. May include host/jobs.h only.
//
// What kernels use of the machine beyond C++: instructions of PTX.
//
// Layouts of fragments are those of the PTX ISA; g = lane / 4 and t = lane % 4:
//   mma 16x8x16  a[0] (g, 2t..2t+1)  a[1] (g+8, 2t..)  a[2] (g, 2t+8..)  a[3] (g+8, 2t+8..)
//                b[0] (2t..2t+1, g)  b[1] (2t+8.., g)
//   mma 16x8x8   a[0] (g, t)  a[1] (g+8, t)  a[2] (g, t+4)  a[3] (g+8, t+4)     b[0] (t, g)  b[1] (t+4, g)
//   both         d[0] (g, 2t)  d[1] (g, 2t+1)  d[2] (g+8, 2t)  d[3] (g+8, 2t+1)
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/device/constants.h"

#define MULTIMIX_DEVICE __device__ __forceinline__

namespace multimix {

// 16-bit elements, as they lie in memory.
struct BF16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

// Two elements in one register, the first in the low half; rounded to nearest.
template <class T>
MULTIMIX_DEVICE uint32_t pack(float low, float high);
template <>
MULTIMIX_DEVICE uint32_t pack<BF16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}
template <>
MULTIMIX_DEVICE uint32_t pack<F16>(float low, float high) {
  uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

MULTIMIX_DEVICE float to_float(float x) { return x; }
MULTIMIX_DEVICE float to_float(BF16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
MULTIMIX_DEVICE float to_float(F16 x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}

// To the nearest number of 11 significant bits, ties away from zero, as a float.
MULTIMIX_DEVICE float round_tf32(float x) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}

// One instruction of the special function unit; results below 2^-126 are zero.
MULTIMIX_DEVICE float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MULTIMIX_DEVICE float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MULTIMIX_DEVICE float fast_sqrt(float x) {
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MULTIMIX_DEVICE float fast_reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
MULTIMIX_DEVICE float fast_inverse_root(float x) {
  float y;
  asm("rsqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// d += a b. By a whole warp.
template <class T>
MULTIMIX_DEVICE void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]);
template <>
MULTIMIX_DEVICE void mma_16x8x16<BF16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
MULTIMIX_DEVICE void mma_16x8x16<F16>(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
// Operands are floats rounded to TF32.
MULTIMIX_DEVICE void mma_16x8x8(float (&d)[4], const float (&a)[4], const float (&b)[2]) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(__float_as_uint(a[0])), "r"(__float_as_uint(a[1])), "r"(__float_as_uint(a[2])), "r"(__float_as_uint(a[3])),
        "r"(__float_as_uint(b[0])), "r"(__float_as_uint(b[1])));
}

MULTIMIX_DEVICE uint32_t shared_address(const void* shared) { return uint32_t(__cvta_generic_to_shared(shared)); }

// Four 8x8 matrices of 16-bit elements: lane 8 i + j names row j of matrix i (16 bytes, aligned); r[i] is the pair
// (g, 2t..2t+1) of matrix i. By a whole warp.
MULTIMIX_DEVICE void load_matrices(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
// The same of the transposed matrices: r[i] is (2t..2t+1, g).
MULTIMIX_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// Starts a copy of 16 bytes to shared memory.
MULTIMIX_DEVICE void copy_async(void* shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global) : "memory");
}
// The same, of which the first `bytes` are read and the others zero.
MULTIMIX_DEVICE void copy_async(void* shared, const void* global, int bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
// Closes a group of the copies that this thread started.
MULTIMIX_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until all but the last N groups of this thread have arrived; other threads see them after a barrier.
template <int N>
MULTIMIX_DEVICE void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

// The dynamic shared memory of the block, aligned to 128 bytes.
MULTIMIX_DEVICE unsigned char* shared_memory() {
  extern __shared__ __align__(128) unsigned char memory[];
  return memory;
}

// One element from a float; rounded to nearest.
template <class T>
MULTIMIX_DEVICE T from_float(float x) {
  return {uint16_t(pack<T>(x, 0.0f))};
}
template <>
MULTIMIX_DEVICE float from_float<float>(float x) {
  return x;
}

}  // namespace multimix
