// The mixed loss: scores (r, b, c), mixed here by a product with the weights, and their gradient by a product back.
// 2 b c flops for each row and direction. Memory: the scores of a wave of locations in panels.
#pragma once

#include "cpu/loss_tile.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
class MixedScores {
  static constexpr int64_t P = kPanel<Real>;

 public:
  explicit MixedScores(const LossJob& job)
      : job_(job),
        b_(job.draw.b),
        c_(job.target.c),
        scores_size_(Panels<Real>::size(b_, c_)),
        transposed_size_(job.grad_attention ? Panels<Real>::size(c_, b_) : 0) {}

  // Elements that a wave holds for each location.
  int64_t shared_size() const { return scores_size_ + transposed_size_; }
  // Columns of the operand's gradient that groups of rows add to.
  int64_t gradient_columns() const { return job_.grad_operand ? c_ : 0; }
  void allocate(int64_t wave) { memory_ = Buffer<Real>(wave * shared_size()); }

  void begin_wave(ParallelFor run, int64_t first, int64_t count) {
    parallel(run, count * b_, [&](int64_t k) { pack(first + k / b_, k / b_, k % b_); });
  }

  void read(const LossRows<Real>& at, LossTile<Real>& tile) const {
    const Panels<Real> s = scores(at.k);
    for (int64_t p = 0; p < s.count(); ++p)
      panel_product<Real, false>(at.rows, s.width(p), b_, {at.mu, at.stride, 1}, s.panel(p), tile.logits.panel(p));
  }

  void add_gradient(const LossRows<Real>& at, const LossTile<Real>& tile, const Panels<Real>& g) const {
    const auto product = at.is_first ? panel_product<Real, false> : panel_product<Real, true>;
    for (int64_t p = 0; p < g.count(); ++p)
      product(b_, g.width(p), at.rows, {at.mu, 1, at.stride}, tile.logits.panel(p), g.panel(p));
  }

  // The part of d loss / d mu_i that comes by the logits: their gradient times s_i.
  void add_to_examples(const LossRows<Real>& at, LossTile<Real>& tile) const {
    for (int64_t q = 0; q < tile.examples.count(); ++q)
      for (int64_t p = 0; p < tile.logits.count(); ++p)
        LossTile<Real>::add_product(at.rows, tile.examples.width(q), tile.logits.width(p), tile.logits.panel(p),
                                    transposed(at.k).panel(q) + p * P * P, tile.examples.panel(q), true);
  }

 private:
  Panels<Real> scores(int64_t k) const { return {memory_.get() + k * shared_size(), b_, c_}; }
  Panels<Real> transposed(int64_t k) const { return {memory_.get() + k * shared_size() + scores_size_, c_, b_}; }

  // A number to take from all of an example's scores: neither the loss nor the gradient changes. It keeps the digits of
  // scores that share a large offset, and leaves others as they are, since subtracting rounds.
  static Real shift(const Vector<Real>& row) {
    const auto [low, high] = std::minmax_element(row.begin(), row.end());
    const Real middle = *low / 2 + *high / 2;
    return std::abs(middle) > *high - *low && std::isfinite(middle) ? middle : Real(0);
  }

  // The scores of example i at a location, the wave's k-th, into panels.
  void pack(int64_t location, int64_t k, int64_t i) {
    const Panels<Real> s = scores(k), t = transposed(k);
    Vector<Real> row(c_);
    // What an ignored example holds, NaN say, must not reach a sum.
    if (!(job_.draw.keep && job_.draw.keep[i] == 0)) read_row(job_.operand, location, i, 0, c_, row.data());
    const Real offset = shift(row);
    for (int64_t p = 0; p < s.count(); ++p) {
      Real* to = s.panel(p) + i * P;
      const int64_t width = s.width(p);
      for (int64_t j = 0; j < width; ++j) to[j] = row[p * P + j] - offset;
      for (int64_t j = width; j < P; ++j) to[j] = LossTile<Real>::kPadding;
    }
    if (!transposed_size_) return;
    const int64_t last = i + 1 < b_ ? i + 1 : t.count() * P;  // columns beyond b are multiplied along
    for (int64_t j = 0; j < c_; ++j) {
      *t.at(j, i) = row[j] - offset;
      for (int64_t beyond = i + 1; beyond < last; ++beyond) *t.at(j, beyond) = 0;
    }
  }

  const LossJob& job_;
  int64_t b_, c_, scores_size_, transposed_size_;
  Buffer<Real> memory_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
