// Vectors of one register, for whichever instruction set this file is compiled for.
//
// GCC and Clang vector extensions give arithmetic, comparison and selection; intrinsics serve only where the compilers
// do not find the instruction. Everything lives in a namespace named after the instruction set, because the same
// source is compiled several times into one library.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__)
#define MULTIMIX_ISA avx512
#define MULTIMIX_VECTOR_BYTES 64
#elif defined(__AVX2__) && defined(__FMA__)
#define MULTIMIX_ISA avx2
#define MULTIMIX_VECTOR_BYTES 32
#else
#define MULTIMIX_ISA baseline
#define MULTIMIX_VECTOR_BYTES 16
#endif

#include "stream.h"

namespace multimix {
namespace MULTIMIX_ISA {

// A vector of Real, the integers of the same width, and the 64-bit words of Philox.
template <class Real>
struct Simd;

template <>
struct Simd<float> {
  static constexpr int lanes = MULTIMIX_VECTOR_BYTES / 4;
  typedef float F __attribute__((vector_size(MULTIMIX_VECTOR_BYTES)));
  typedef int32_t I __attribute__((vector_size(MULTIMIX_VECTOR_BYTES)));
  typedef uint32_t U __attribute__((vector_size(MULTIMIX_VECTOR_BYTES)));
};

template <>
struct Simd<double> {
  static constexpr int lanes = MULTIMIX_VECTOR_BYTES / 8;
  typedef double F __attribute__((vector_size(MULTIMIX_VECTOR_BYTES)));
  typedef int64_t I __attribute__((vector_size(MULTIMIX_VECTOR_BYTES)));
  typedef uint64_t U __attribute__((vector_size(MULTIMIX_VECTOR_BYTES)));
};

using F32 = Simd<float>::F;
using I32 = Simd<float>::I;
using U32 = Simd<float>::U;
using F64 = Simd<double>::F;
using I64 = Simd<double>::I;
using U64 = Simd<double>::U;

template <class V>
MULTIMIX_INLINE V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
MULTIMIX_INLINE void store(void* p, V v) {
  std::memcpy(p, &v, sizeof v);
}

template <class V, class T>
MULTIMIX_INLINE V splat(T x) {
  return V{} + std::remove_reference_t<decltype(V{}[0])>(x);
}

// 0, 1, 2, ...
template <class V>
MULTIMIX_INLINE V iota() {
  V v{};
  for (unsigned i = 0; i < sizeof(V) / sizeof(v[0]); ++i) v[i] = i;
  return v;
}

MULTIMIX_INLINE U64 product(U64 a, uint32_t b) {
#if MULTIMIX_VECTOR_BYTES == 64
  return (U64)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(b));
#elif MULTIMIX_VECTOR_BYTES == 32
  return (U64)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(b));
#elif defined(__SSE2__)
  return (U64)_mm_mul_epu32((__m128i)a, _mm_set1_epi64x(b));
#else
  return (a & 0xFFFFFFFFull) * uint64_t(b);
#endif
}

template <class V>
MULTIMIX_INLINE V max(V a, V b) {
  return a > b ? a : b;
}

template <class V>
MULTIMIX_INLINE V min(V a, V b) {
  return a < b ? a : b;
}

MULTIMIX_INLINE F32 sqrt(F32 x) {
#if MULTIMIX_VECTOR_BYTES == 64
  return (F32)_mm512_sqrt_ps((__m512)x);
#elif MULTIMIX_VECTOR_BYTES == 32
  return (F32)_mm256_sqrt_ps((__m256)x);
#else
  for (int i = 0; i < Simd<float>::lanes; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
#endif
}

MULTIMIX_INLINE F64 sqrt(F64 x) {
#if MULTIMIX_VECTOR_BYTES == 64
  return (F64)_mm512_sqrt_pd((__m512d)x);
#elif MULTIMIX_VECTOR_BYTES == 32
  return (F64)_mm256_sqrt_pd((__m256d)x);
#else
  for (int i = 0; i < Simd<double>::lanes; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
#endif
}

// Whether any lane of a comparison's result is set.
template <class M>
MULTIMIX_INLINE bool any(M mask) {
#if MULTIMIX_VECTOR_BYTES == 64
  return _mm512_test_epi32_mask((__m512i)mask, (__m512i)mask) != 0;
#elif MULTIMIX_VECTOR_BYTES == 32
  return !_mm256_testz_si256((__m256i)mask, (__m256i)mask);
#else
  bool result = false;
  for (unsigned i = 0; i < sizeof(M) / sizeof(mask[0]); ++i) result |= mask[i] != 0;
  return result;
#endif
}

// Combines the lanes of a vector: its halves, then their halves, in the same order whatever the compiler does.
template <class V, class Combine>
MULTIMIX_INLINE auto halve(V v, const Combine& combine) {
  using T = std::remove_reference_t<decltype(v[0])>;
  if constexpr (sizeof(V) == sizeof(T)) {
    return v[0];
  } else {
    typedef T Half __attribute__((vector_size(sizeof(V) / 2)));
    Half low, high;
    std::memcpy(&low, &v, sizeof low);
    std::memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof low, sizeof high);
    return halve(combine(low, high), combine);
  }
}

template <class V>
MULTIMIX_INLINE auto sum(V v) {
  return halve(v, [](auto a, auto b) { return a + b; });
}

template <class V>
MULTIMIX_INLINE auto maximum(V v) {
  return halve(v, [](auto a, auto b) { return a > b ? a : b; });
}

template <class V>
MULTIMIX_INLINE auto minimum(V v) {
  return halve(v, [](auto a, auto b) { return a < b ? a : b; });
}

// a0 b0 a1 b1 ... into memory.
template <class V, class T>
MULTIMIX_INLINE void store_interleaved(T* p, V a, V b) {
  constexpr int n = sizeof(V) / sizeof(T);
  for (int i = 0; i < n; ++i) {
    p[2 * i] = a[i];
    p[2 * i + 1] = b[i];
  }
}

}  // namespace MULTIMIX_ISA
}  // namespace multimix
