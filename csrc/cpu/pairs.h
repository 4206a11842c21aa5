// Products of float matrices rounded to bfloat16: AVX512-BF16 multiplies pairs of neighbours along the depth and adds
// both to a float sum, twice the multiply-adds of a float product in each instruction.
//
// Two rows of the right matrix are interleaved, as are two elements of the left one, so that one 32-bit word is a pair.
// Weights are divided by their sum after rounding: a mixture of equal scores is that score. May include jobs.h and
// products.h.
#pragma once

#include "cpu/jobs.h"
#include "cpu/products.h"

namespace multimix {
namespace MULTIMIX_ISA {

#if MULTIMIX_VECTOR_BYTES == 64 && defined(MULTIMIX_KNOWS_BFLOAT16)
constexpr bool kHasPairs = true;  // if the processor has them, too
#define MULTIMIX_PAIRS __attribute__((target("avx512bf16")))

// The words (even[j], odd[j]) of `count` columns, and zeros up to a whole vector; a missing row is zeros.
MULTIMIX_PAIRS inline void interleave(const float* even, const float* odd, int64_t count, uint32_t* to) {
  alignas(64) uint16_t order[32];
  for (int j = 0; j < 16; ++j) order[2 * j] = uint16_t(j), order[2 * j + 1] = uint16_t(16 + j);
  const __m512i permutation = _mm512_load_si512(order);
  for (int64_t j = 0; j < count; j += 16) {
    const __mmask16 inside = __mmask16(count - j >= 16 ? 0xFFFF : (1 << (count - j)) - 1);
    const __m512 low = _mm512_maskz_loadu_ps(inside, even + j);
    const __m512 high = odd ? _mm512_maskz_loadu_ps(inside, odd + j) : _mm512_setzero_ps();
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    _mm512_storeu_si512(to + j, _mm512_permutexvar_epi16(permutation, both));
  }
}

// The words (x[2 k], x[2 k + 1]) of `count` elements, and zeros up to a whole vector. Returns the sum as rounded.
MULTIMIX_PAIRS inline float pair_up(const float* x, int64_t count, uint32_t* to) {
  __m512 total = _mm512_setzero_ps();
  for (int64_t j = 0; j < count; j += 32) {
    const uint32_t inside = count - j >= 32 ? 0xFFFFFFFFu : (1u << (count - j)) - 1;
    const __m512 low = _mm512_maskz_loadu_ps(__mmask16(inside), x + j);
    const __m512 high = _mm512_maskz_loadu_ps(__mmask16(inside >> 16), x + j + 16);
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(high, low);
    total += (__m512)_mm512_slli_epi32(both, 16);
    total += (__m512)_mm512_and_si512(both, _mm512_set1_epi32(int(0xFFFF0000u)));
    _mm512_storeu_si512(to + j / 2, both);
  }
  return sum((F32)total);
}

// C = A B, each row times its scale if there is one, or C += A B; of a, the word (i, k) is a[i * row + k * column].
template <int rows, int vectors, bool accumulate>
MULTIMIX_PAIRS void pairs_block(const uint32_t* a, int64_t row, int64_t column, const uint32_t* b, int64_t depth,
                                const float* scale, float* c) {
  constexpr int64_t width = kPanel<float>;
  __m512 sums[rows][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) sums[i][v] = _mm512_setzero_ps();
  for (int64_t k = 0; k < depth; ++k) {
    __m512i x[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) x[v] = _mm512_loadu_si512(b + k * width + v * 16);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const __m512i w = _mm512_set1_epi32(int(a[i * row + k * column]));
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) sums[i][v] = _mm512_dpbf16_ps(sums[i][v], (__m512bh)w, (__m512bh)x[v]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) {
      float* to = c + i * width + v * 16;
      if (scale) sums[i][v] *= _mm512_set1_ps(scale[i]);
      _mm512_storeu_ps(to, accumulate ? _mm512_loadu_ps(to) + sums[i][v] : sums[i][v]);
    }
}

template <int step, bool accumulate>
void pairs_rows(int64_t rows, int64_t columns, const uint32_t* a, int64_t row, int64_t column, const uint32_t* b,
                int64_t depth, const float* scale, float* c) {
  const auto block = columns > 32   ? pairs_block<step, 3, accumulate>
                     : columns > 16 ? pairs_block<step, 2, accumulate>
                                    : pairs_block<step, 1, accumulate>;
  for (int64_t i = 0; i < rows; i += step)
    block(a + i * row, row, column, b, depth, scale ? scale + i : nullptr, c + i * kPanel<float>);
}

// One panel of C, as in panel_product.
template <bool accumulate>
void pairs_product(int64_t rows, int64_t columns, const uint32_t* a, int64_t row, int64_t column, const uint32_t* b,
                   int64_t depth, const float* scale, float* c) {
  (rows < kRows ? pairs_rows<1, accumulate> : pairs_rows<kRows, accumulate>)(rows, columns, a, row, column, b, depth,
                                                                             scale, c);
}
#else
constexpr bool kHasPairs = false;
// Not called, and not there.
void interleave(const float* even, const float* odd, int64_t count, uint32_t* to);
float pair_up(const float* x, int64_t count, uint32_t* to);
template <bool accumulate>
void pairs_product(int64_t rows, int64_t columns, const uint32_t* a, int64_t row, int64_t column, const uint32_t* b,
                   int64_t depth, const float* scale, float* c);
#endif

}  // namespace MULTIMIX_ISA
}  // namespace multimix
