// Sums in a fixed order: the gradients of each group of rows, added up in the groups' order when all are done, and the
// attention's gradient over the rows of a tile. May include schedule.h and products.h.
#pragma once

#include <limits>

#include "cpu/products.h"
#include "cpu/schedule.h"

namespace multimix {
namespace MULTIMIX_ISA {

// For every group of every location of a wave: the gradient of an operand (b, columns) in panels, and of the attention
// (b).
template <class Real>
class PartialGradients {
 public:
  // Elements of one group; columns is 0 if the operand's gradient is not wanted.
  static int64_t size(int64_t b, int64_t columns, bool attention) {
    return (columns ? Panels<Real>::size(b, columns) : 0) + (attention ? b : 0);
  }

  PartialGradients(const Schedule& schedule, int64_t b, int64_t columns, bool attention)
      : groups_(schedule.groups),
        b_(b),
        columns_(columns),
        size_(size(b, columns, attention)),
        memory_(schedule.wave * groups_ * size_, "partial gradients") {}

  Panels<Real> operand(int64_t k, int64_t group) const { return {at(k, group), b_, columns_}; }
  Real* attention(int64_t k, int64_t group) const { return at(k, group) + size_ - b_; }
  void clear_attention(int64_t k, int64_t group) const { std::fill_n(attention(k, group), b_, Real(0)); }

  // Row i of the operand's gradient at the wave's k-th location, times the scale.
  void add_up_operand(int64_t k, int64_t i, Real scale, Real* to) const {
    const Panels<Real> first = operand(k, 0);
    for (int64_t p = 0; p < first.count(); ++p)
      add_up(first.panel(p) + i * kPanel<Real>, first.width(p), scale, to + p * kPanel<Real>);
  }

  void add_up_attention(int64_t k, Real scale, Real* to) const { add_up(attention(k, 0), b_, scale, to); }

 private:
  Real* at(int64_t k, int64_t group) const { return memory_.get() + (k * groups_ + group) * size_; }

  void add_up(const Real* partial, int64_t count, Real scale, Real* to) const {
    std::copy_n(partial, count, to);
    for (int64_t group = 1; group < groups_; ++group)
      for (int64_t j = 0; j < count; ++j) to[j] += partial[group * size_ + j];
    for (int64_t j = 0; j < count; ++j) to[j] *= scale;
  }

  int64_t groups_, b_, columns_, size_;
  Buffer<Real> memory_;
};

template <class Real>
int64_t first_largest(const Real* x, int64_t count) {
  using F = typename Simd<Real>::F;
  constexpr int64_t N = Simd<Real>::lanes;
  F vectors = splat<F>(-std::numeric_limits<Real>::infinity());
  int64_t i = 0;
  for (; i + N <= count; i += N) vectors = max(vectors, load<F>(x + i));
  Real top = maximum(vectors);
  for (; i < count; ++i) top = std::max(top, x[i]);
  return std::min<int64_t>(std::find(x, x + count, top) - x, count - 1);  // NaN is nowhere
}

// With mu_i = a_i plain_i and sum_i mu_i = 1: adds d loss / d a_i = plain_i (g_i - sum_j mu_j g_j) over the rows, from
// g = d loss / d mu (rows, b). g is taken relative to that of the largest weight: a row of one example gives exactly
// zero, which plain, as large as attention is small, does not blow up.
template <class Real>
void add_centred(int64_t rows, int64_t b, const Real* mu, const Real* plain, int64_t stride, const Panels<Real>& g,
                 Real* grad_attention) {
  using F = typename Simd<Real>::F;
  constexpr int64_t N = Simd<Real>::lanes, P = kPanel<Real>;
  for (int64_t row = 0; row < rows; ++row) {
    const Real *m = mu + row * stride, *l = plain + row * stride;
    const Real base = *g.at(row, first_largest(m, b));
    // The same for whole vectors and for the rest of the row.
    F means{};
    Real mean = 0;
    for (int64_t i = 0; i < b; i += P) {
      const Real* x = g.panel(i / P) + row * P - i;
      const int64_t end = std::min(i + P, b);
      int64_t k = i;
      for (; k + N <= end; k += N) means += load<F>(m + k) * (load<F>(x + k) - base);
      for (; k < end; ++k) mean += m[k] * (x[k] - base);
    }
    mean += sum(means);
    for (int64_t i = 0; i < b; i += P) {
      const Real* x = g.panel(i / P) + row * P - i;
      const int64_t end = std::min(i + P, b);
      for (int64_t k = i; k < end; ++k) grad_attention[k] += l[k] * (x[k] - base - mean);
    }
  }
}

}  // namespace MULTIMIX_ISA
}  // namespace multimix
