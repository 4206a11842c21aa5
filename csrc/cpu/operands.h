// Matrices (b, columns) of examples as right operands of products with weights: scores, embeddings, probabilities.
//
// Packed once for a wave of locations, or, where that takes more than kPackedBytes, again for every tile of rows, a
// panel at a time. A weight of zero times anything is zero: panels that hold an infinity or NaN are multiplied with
// care, the others in straight line. May include products.h, schedule.h, elements.h.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/elements.h"
#include "cpu/products.h"
#include "cpu/schedule.h"

namespace multimix {
namespace MULTIMIX_ISA {

constexpr int64_t kPackedBytes = 16 << 20;

template <class Real>
class MixOperand {
  using F = typename Simd<Real>::F;
  using I = typename Simd<Real>::I;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr int64_t P = kPanel<Real>;
  static constexpr Real kLargest = std::numeric_limits<Real>::max();

 public:
  struct Layout {
    bool plain = true;        // (b, columns): to mix
    bool transposed = false;  // (columns, b): for the gradient of the weights; without infinities and NaN
    bool scores = false;      // some of which are masks; less a number for each example, see shift()
  };

  MixOperand() = default;
  // keep: (b), or null; 0 for examples that are read as zeros.
  MixOperand(const Strided& x, int64_t b, int64_t columns, const double* keep, Layout layout)
      : x_(x),
        b_(b),
        columns_(columns),
        count_(Panels<Real>::count(columns)),
        keep_(keep),
        layout_(layout),
        plain_size_(layout.plain ? b * count_ * P : 0),
        transposed_size_(layout.transposed ? Panels<Real>::size(columns, b) : 0),
        packed_((plain_size_ + transposed_size_) * int64_t(sizeof(Real)) <= kPackedBytes) {}

  bool packed() const { return packed_; }
  // If packed: example i of panel p at the wave's k-th location; whether a panel holds an infinity or NaN.
  const Real* row(int64_t k, int64_t p, int64_t i) const { return plain(k) + (p * b_ + i) * P; }
  bool is_careful(int64_t k, int64_t p) const { return careful_[k * count_ + p] != 0; }
  // Elements that a wave holds for each location.
  int64_t shared_size() const { return packed_ ? plain_size_ + transposed_size_ : 0; }
  // Elements that a task has to lend.
  int64_t scratch_size() const { return packed_ ? 0 : std::max(layout_.plain ? b_ : 0, P) * P; }

  void allocate(int64_t wave) {
    memory_ = Buffer<Real>(wave * shared_size(), "examples in panels");
    shifts_.assign(wave * b_, Real(0));
    careful_.assign(wave * count_, 0);
  }

  // Reads locations first, first + 1, ...
  void begin_wave(ParallelFor run, int64_t first, int64_t count) {
    if (plain_size_ + transposed_size_ == 0) return;
    first_ = first;
    std::fill(careful_.begin(), careful_.end(), uint8_t(0));
    parallel(run, count * b_, [&](int64_t k) { look_at(k / b_, k % b_); });
    if (packed_) parallel(run, count * b_, [&](int64_t k) { pack(k / b_, k % b_); });
  }

  // Columns of panel p: to = mu (rows, b) times them, at the wave's k-th location.
  void multiply(int64_t k, int64_t p, int64_t rows, const Real* mu, int64_t stride, Real* scratch, Real* to) const {
    const Real* panel = packed_ ? plain(k) + p * b_ * P : scratch;
    if (!packed_)
      for (int64_t i = 0; i < b_; ++i) read(k, i, p, scratch + i * P);
    const auto product = careful_[k * count_ + p] ? product_without_zeros<Real> : panel_product<Real, false>;
    product(rows, std::min(P, columns_ - p * P), b_, {mu, stride, 1}, panel, to);
  }

  // to (rows, b) = or += left (rows, P) times the transposed columns of panel p.
  void multiply_transposed(int64_t k, int64_t p, int64_t rows, const Real* left, Real* scratch, const Panels<Real>& to,
                           bool accumulate) const {
    const int64_t depth = std::min(P, columns_ - p * P);
    const auto product = accumulate ? panel_product<Real, true> : panel_product<Real, false>;
    for (int64_t q = 0; q < to.count(); ++q) {
      const Real* block = packed_ ? transposed(k).panel(q) + p * P * P : scratch;
      if (!packed_) read_transposed(k, p, q, scratch);
      product(rows, to.width(q), depth, {left, P, 1}, block, to.panel(q));
    }
  }

 private:
  Real* plain(int64_t k) const { return memory_.get() + k * shared_size(); }
  Panels<Real> transposed(int64_t k) const { return {plain(k) + plain_size_, columns_, b_}; }
  bool is_ignored(int64_t i) const { return keep_ && keep_[i] == 0; }

  void read_elements(int64_t k, int64_t i, int64_t p, int64_t width, Real* to) const {
    if (layout_.scores)
      read_scores(x_, first_ + k, i, p * P, width, to);
    else
      read_row(x_, first_ + k, i, p * P, width, to);
  }

  // The P elements of example i in panel p, zeros beyond the columns. What an ignored example holds is not read.
  void read(int64_t k, int64_t i, int64_t p, Real* to) const {
    const int64_t width = is_ignored(i) ? 0 : std::min(P, columns_ - p * P);
    read_elements(k, i, p, width, to);
    const Real shift = shifts_[k * b_ + i];
    if (shift != 0)
      for (int64_t j = 0; j < width; ++j) to[j] -= shift;
    std::fill(to + width, to + P, Real(0));
  }

  static Real finite(Real x) { return std::abs(x) <= kLargest ? x : Real(0); }

  void read_transposed(int64_t k, int64_t p, int64_t q, Real* to) const {
    Real row[P];
    std::fill(to, to + P * P, Real(0));
    for (int64_t i = q * P; i < std::min(b_, (q + 1) * P); ++i) {
      read(k, i, p, row);
      for (int64_t j = 0; j < P; ++j) to[j * P + i - q * P] = finite(row[j]);
    }
  }

  // Finds which panels need care, and the shift of an example.
  void look_at(int64_t k, int64_t i) {
    if (is_ignored(i)) return;
    Real row[P];
    F low = splat<F>(kLargest), high = splat<F>(-kLargest);
    for (int64_t p = 0; p < count_; ++p) {
      const int64_t width = std::min(P, columns_ - p * P);
      read_elements(k, i, p, width, row);
      std::fill(row + width, row + P, row[0]);
      I wild{};
      for (int64_t v = 0; v < P; v += N) {
        const F x = load<F>(row + v), size = x < 0 ? -x : x;
        wild |= ~(size <= kLargest);
        low = (size <= kLargest / 2) & (x < low) ? x : low;
        high = (size <= kLargest / 2) & (x > high) ? x : high;
      }
      if (any(wild)) __atomic_store_n(&careful_[k * count_ + p], 1, __ATOMIC_RELAXED);
    }
    if (layout_.scores) shifts_[k * b_ + i] = shift(minimum(low), maximum(high));
  }

  // A number to take from all of an example's scores: neither the loss nor the gradient changes. It keeps the digits of
  // scores that share a large offset, and leaves others as they are, since subtracting rounds. Scores at the end of the
  // range stand for masks and do not count.
  static Real shift(Real low, Real high) {
    if (!(low <= high)) return 0;
    const Real middle = low / 2 + high / 2;
    return std::abs(middle) > high - low ? middle : Real(0);
  }

  void pack(int64_t k, int64_t i) {
    Real row[P];
    const Panels<Real> t = transposed(k);
    const int64_t end = i + 1 < b_ ? b_ : t.count() * P;  // columns beyond b are multiplied along
    for (int64_t p = 0; p < count_; ++p) {
      Real* to = layout_.plain ? plain(k) + (p * b_ + i) * P : row;
      read(k, i, p, to);
      if (!layout_.transposed) continue;
      for (int64_t j = p * P; j < std::min(columns_, (p + 1) * P); ++j) {
        *t.at(j, i) = finite(to[j - p * P]);
        for (int64_t beyond = b_; beyond < end; ++beyond) *t.at(j, beyond) = 0;
      }
    }
  }

  Strided x_;
  int64_t b_ = 0, columns_ = 0, count_ = 0;
  const double* keep_ = nullptr;
  Layout layout_;
  int64_t plain_size_ = 0, transposed_size_ = 0;
  bool packed_ = true;
  int64_t first_ = 0;  // location of the wave
  Buffer<Real> memory_;
  Vector<Real> shifts_;      // (wave, b)
  Vector<uint8_t> careful_;  // (wave, panels)
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
