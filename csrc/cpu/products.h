// Small matrix products that stay in cache: C = A B or C += A B, for one panel of B at a time.
//
// A panel is kPanel columns wide and stored row by row, so that the innermost loop loads kVectors vectors of B and
// broadcasts kRows elements of A, both from the first-level cache. Cost: 2 flops per multiply-add, kRows * kVectors
// multiply-adds for kRows + kVectors loads.
#pragma once

#include <algorithm>

#include "cpu/memory.h"
#include "cpu/simd.h"

namespace multimix {
namespace MULTIMIX_ISA {

constexpr int kVectors = 3;
#if MULTIMIX_VECTOR_BYTES == 64
constexpr int kRows = 8;  // 24 accumulators of 32 registers
#else
constexpr int kRows = 4;  // 12 of 16
#endif

// Columns of a panel.
template <class Real>
constexpr int kPanel = kVectors * Simd<Real>::lanes;

// An operand's element (i, k) is data[i * row + k * column].
template <class Real>
struct Operand {
  const Real* data;
  int64_t row, column;
};

// What is added to C is summed up from zero first: of the two ways to accumulate, the one with fewer roundings.
template <class Real, int rows, int vectors, bool accumulate>
void block_product(Operand<Real> a, const Real* b, int64_t depth, Real* c) {
  using F = typename Simd<Real>::F;
  constexpr int N = Simd<Real>::lanes, width = kPanel<Real>;
  F sums[rows][vectors];
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) sums[i][v] = F{};
  for (int64_t k = 0; k < depth; ++k) {
    F row[vectors];
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) row[v] = load<F>(b + k * width + v * N);
#pragma GCC unroll 8
    for (int i = 0; i < rows; ++i) {
      const F x = splat<F>(a.data[i * a.row + k * a.column]);
#pragma GCC unroll 3
      for (int v = 0; v < vectors; ++v) sums[i][v] += x * row[v];
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < rows; ++i)
#pragma GCC unroll 3
    for (int v = 0; v < vectors; ++v) {
      Real* to = c + i * width + v * N;
      store(to, accumulate ? load<F>(to) + sums[i][v] : sums[i][v]);
    }
}

// How many rows a matrix on the left or the result of a product has in memory: whole blocks, but for a few rows,
// which are taken one by one.
constexpr int64_t stored_rows(int64_t rows) { return rows < kRows ? rows : round_up(rows, kRows); }

// C (rows, width) of one panel: C = A B, or C += A B. A and C have stored_rows(rows) rows; what stands in the rows
// beyond `rows` is of no consequence. Only the vectors that hold the first `columns` columns are touched.
template <class Real, bool accumulate, int step>
void rows_product(int64_t rows, int64_t columns, int64_t depth, Operand<Real> a, const Real* b, Real* c) {
  const int64_t vectors = (columns + Simd<Real>::lanes - 1) / Simd<Real>::lanes;
  const auto block = vectors >= 3   ? block_product<Real, step, 3, accumulate>
                     : vectors == 2 ? block_product<Real, step, 2, accumulate>
                                    : block_product<Real, step, 1, accumulate>;
  for (int64_t i = 0; i < rows; i += step) {
    block(a, b, depth, c);
    a.data += step * a.row;
    c += step * kPanel<Real>;
  }
}

template <class Real, bool accumulate>
void panel_product(int64_t rows, int64_t columns, int64_t depth, Operand<Real> a, const Real* b, Real* c) {
  (rows < kRows ? rows_product<Real, accumulate, 1> : rows_product<Real, accumulate, kRows>)(rows, columns, depth, a, b,
                                                                                             c);
}

// C = A B where zeros of A multiply to zero whatever B holds: the same bits for finite B, at a third of the speed.
template <class Real>
void product_without_zeros(int64_t rows, int64_t columns, int64_t depth, Operand<Real> a, const Real* b, Real* c) {
  using F = typename Simd<Real>::F;
  constexpr int N = Simd<Real>::lanes, width = kPanel<Real>;
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t v = 0; v < columns; v += N) {
      F sum{};
      for (int64_t k = 0; k < depth; ++k) {
        const Real x = a.data[i * a.row + k * a.column];
        if (x != 0) sum += splat<F>(x) * load<F>(b + k * width + v);
      }
      store(c + i * width + v, sum);
    }
}

// A matrix cut into panels: element (i, j) of panel j / kPanel stands at offset(i, j).
template <class Real>
struct Panels {
  Real* data = nullptr;
  int64_t rows = 0;  // in memory
  int64_t columns = 0;

  static int64_t count(int64_t columns) { return (columns + kPanel<Real> - 1) / kPanel<Real>; }
  static int64_t size(int64_t rows, int64_t columns) { return stored_rows(rows) * count(columns) * kPanel<Real>; }
  Panels() = default;
  Panels(Real* data, int64_t rows, int64_t columns) : data(data), rows(stored_rows(rows)), columns(columns) {}

  int64_t count() const { return count(columns); }
  int64_t width(int64_t p) const { return std::min<int64_t>(kPanel<Real>, columns - p * kPanel<Real>); }
  Real* panel(int64_t p) const { return data + p * rows * kPanel<Real>; }
  Real* at(int64_t i, int64_t j) const { return panel(j / kPanel<Real>) + i * kPanel<Real> + j % kPanel<Real>; }
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
