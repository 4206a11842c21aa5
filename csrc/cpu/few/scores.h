// Scores of a wave of locations, packed (wave, b, pitch) for mixtures that gather them.
//
// A number is taken from all of an example's scores where they share a large offset, see operands.h. May include
// few/transpose.h and schedule.h.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/elements.h"
#include "cpu/few/transpose.h"
#include "cpu/schedule.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
class FewScores {
  using F = typename Simd<Real>::F;
  using I = typename Simd<Real>::I;
  using Lane = std::remove_reference_t<decltype(I{}[0])>;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr Real kInRange = std::numeric_limits<Real>::max() / 2;

 public:
  FewScores(const Strided& x, int64_t b, int64_t c, int64_t wave)
      : x_(x), b_(b), c_(c), pitch_(round_up(c, N)), memory_(wave * b * pitch_, "scores") {}

  const Real* at(int64_t k) const { return memory_.get() + k * b_ * pitch_; }

  // Packs `count` locations from `first` on. Where locations are neighbours in memory N of them are read at a time.
  void pack(ParallelFor run, int64_t first, int64_t count) const {
    const int64_t blocks = x_.strides[0] == 1 && x_.strides[2] != 1 ? count / N : 0;
    parallel(run, (blocks + count - blocks * N) * b_, [&](int64_t item) {
      const int64_t k = item / b_, i = item % b_;
      k < blocks ? pack_block(first, k * N, i) : pack_row(first, k - blocks + blocks * N, i);
    });
  }

 private:
  Real* row(int64_t k, int64_t i) const { return memory_.get() + (k * b_ + i) * pitch_; }

  struct Range {
    F low = splat<F>(kInRange), high = splat<F>(-kInRange);
    MULTIMIX_INLINE void add(F v) {
      const auto in = ((v < 0 ? -v : v) <= kInRange);
      low = in & (v < low) ? v : low;
      high = in & (v > high) ? v : high;
    }
  };

  static Real offset(Real low, Real high) {
    const Real middle = low / 2 + high / 2;
    return low <= high && std::abs(middle) > high - low ? middle : Real(0);
  }

  void pack_row(int64_t first, int64_t k, int64_t i) const {
    Real* to = row(k, i);
    read_scores(x_, first + k, i, 0, c_, to);
    std::fill(to + c_, to + pitch_, to[c_ - 1]);
    Range range;
    for (int64_t j = 0; j < pitch_; j += N) range.add(load<F>(to + j));
    subtract(offset(minimum(range.low), maximum(range.high)), to);
  }

  // N locations of one example.
  void pack_block(int64_t first, int64_t k, int64_t i) const {
    Range range;
    for (int64_t j = 0; j < pitch_; j += N) {
      alignas(64) Real block[N * N];
      const int64_t classes = std::min<int64_t>(N, c_ - j);
      read_classes(first + k, i, j, classes, block);
      for (int64_t v = 0; v < classes; ++v) range.add(load<F>(block + v * N));
      for (int64_t v = classes; v < N; ++v) store(block + v * N, F{});
      F x[N];
      load_transposed(block, N, x);
#pragma GCC unroll 16
      for (int l = 0; l < N; ++l) store(row(k + l, i) + j, x[l]);
    }
    const F middle = range.low / 2 + range.high / 2, spread = range.high - range.low;
    if (!any((middle < 0 ? -middle : middle) > spread)) return;
    for (int l = 0; l < N; ++l) subtract(offset(range.low[l], range.high[l]), row(k + l, i));
  }

  void read_classes(int64_t location, int64_t i, int64_t j, int64_t classes, Real* block) const {
    if (x_.dtype == DType::kFloat32 && std::is_same_v<Real, float>) {
      const float* from = static_cast<const float*>(x_.data) + location + i * x_.strides[1] + j * x_.strides[2];
      for (int64_t v = 0; v < classes; ++v) store(block + v * N, load<F>(from + v * x_.strides[2]));
      return;
    }
    Strided by_class = x_;
    std::swap(by_class.strides[0], by_class.strides[2]);
    for (int64_t v = 0; v < classes; ++v) read_scores(by_class, j + v, i, location, N, block + v * N);
  }

  void subtract(Real offset, Real* to) const {
    if (offset == 0) return;
    for (int64_t j = 0; j < pitch_; j += N) store(to + j, load<F>(to + j) - offset);
  }

  Strided x_;
  int64_t b_, c_, pitch_;
  Buffer<Real> memory_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
