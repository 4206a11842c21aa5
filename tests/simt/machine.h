// The functions of primitives.h that are PTX instructions on a GPU.
#pragma once

#include "warps.h"

namespace simt {

uint16_t to_bf16(float x);
uint16_t to_f16(float x);
float from_f16(uint16_t bits);

enum class Matrix { kBF16, kF16 };
void multiply_16x8x16(Matrix type, float* d, const uint32_t* a, const uint32_t* b, const char* file, int line);
void multiply_16x8x8(float* d, const float* a, const float* b, const char* file, int line);
void load_rows(bool transposed, uint32_t* r, const void* row, const char* file, int line);

void start_copy(void* shared, const void* global, int bytes);
void commit_group();
void wait_groups(int but);

// The same for every block.
__attribute__((const)) unsigned char* shared_begin();

}  // namespace simt

namespace multimix {

template <class T>
MULTIMIX_DEVICE uint32_t pack(float low, float high);
template <>
MULTIMIX_DEVICE uint32_t pack<BF16>(float low, float high) {
  return simt::to_bf16(low) | uint32_t(simt::to_bf16(high)) << 16;
}
template <>
MULTIMIX_DEVICE uint32_t pack<F16>(float low, float high) {
  return simt::to_f16(low) | uint32_t(simt::to_f16(high)) << 16;
}

MULTIMIX_DEVICE float to_float(float x) { return x; }
MULTIMIX_DEVICE float to_float(BF16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }
MULTIMIX_DEVICE float to_float(F16 x) { return simt::from_f16(x.bits); }

float round_tf32(float x);

// Right to a unit or so or, with MULTIMIX_SIMT_ERRORS, off by the largest error that the PTX ISA allows: relatively
// 2^-22 (2^-23 for the root), absolutely 2^-22 for logarithms of 1/2 to 2. Subnormal inputs and results are zero, as
// there.
float fast_exp2(float x);
float fast_log2(float x);
float fast_sqrt(float x);

template <class T>
MULTIMIX_DEVICE void mma_16x8x16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIMT_HERE) {
  constexpr bool bf16 = std::is_same<T, BF16>::value;
  simt::multiply_16x8x16(bf16 ? simt::Matrix::kBF16 : simt::Matrix::kF16, d, a, b, file, line);
}
MULTIMIX_DEVICE void mma_16x8x8(float (&d)[4], const float (&a)[4], const float (&b)[2], SIMT_HERE) {
  simt::multiply_16x8x8(d, a, b, file, line);
}

MULTIMIX_DEVICE void load_matrices(uint32_t (&r)[4], const void* row, SIMT_HERE) {
  simt::load_rows(false, r, row, file, line);
}
MULTIMIX_DEVICE void load_matrices_transposed(uint32_t (&r)[4], const void* row, SIMT_HERE) {
  simt::load_rows(true, r, row, file, line);
}

MULTIMIX_DEVICE void copy_async(void* shared, const void* global, int bytes = 16) {
  simt::start_copy(shared, global, bytes);
}
MULTIMIX_DEVICE void commit_copies() { simt::commit_group(); }
template <int N>
MULTIMIX_DEVICE void wait_copies() {
  simt::wait_groups(N);
}

MULTIMIX_DEVICE unsigned char* shared_memory() { return simt::shared_begin(); }

}  // namespace multimix
