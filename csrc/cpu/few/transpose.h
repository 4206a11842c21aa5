// Square blocks with their rows and columns exchanged, in registers.
#pragma once

#include <utility>

#include "cpu/simd.h"

namespace multimix {
namespace MULTIMIX_ISA {

// a0 b0 a1 b1 ...: the first half of it in a, the second in b.
template <class V, size_t... L>
MULTIMIX_INLINE void zip(V& a, V& b, std::index_sequence<L...>) {
  constexpr size_t N = sizeof...(L);
#ifdef __clang__
  const V low = __builtin_shufflevector(a, b, (L / 2 + L % 2 * N)...);
  const V high = __builtin_shufflevector(a, b, (N / 2 + L / 2 + L % 2 * N)...);
#else
  using I = typename Simd<std::remove_reference_t<decltype(V{}[0])> >::I;
  const V low = __builtin_shuffle(a, b, I{(L / 2 + L % 2 * N)...});
  const V high = __builtin_shuffle(a, b, I{(N / 2 + L / 2 + L % 2 * N)...});
#endif
  a = low, b = high;
}

// N vectors of N lanes: log2 N times every row i is zipped with row i + N / 2.
template <class V, int N = sizeof(V) / sizeof(V{}[0])>
MULTIMIX_INLINE void transpose(V (&x)[N]) {
#pragma GCC unroll 4
  for (int stage = 1; stage < N; stage *= 2) {
    V zipped[N];
#pragma GCC unroll 16
    for (int i = 0; i < N / 2; ++i) {
      V a = x[i], b = x[i + N / 2];
      zip(a, b, std::make_index_sequence<N>());
      zipped[2 * i] = a, zipped[2 * i + 1] = b;
    }
#pragma GCC unroll 16
    for (int i = 0; i < N; ++i) x[i] = zipped[i];
  }
}

// From rows `stride` apart in memory.
template <class V, class T, int N = sizeof(V) / sizeof(T)>
MULTIMIX_INLINE void load_transposed(const T* from, int64_t stride, V (&x)[N]) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) x[i] = load<V>(from + i * stride);
  transpose(x);
}

// The sum of each of N vectors, that of the i-th in lane i.
template <class V, class T, int N = sizeof(V) / sizeof(T)>
MULTIMIX_INLINE V sums_of(const T* vectors) {
  V x[N], total{};
  load_transposed(vectors, N, x);
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) total += x[i];
  return total;
}

}  // namespace MULTIMIX_ISA
}  // namespace multimix
