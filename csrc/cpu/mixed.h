// The mixed loss: scores (r, b, c), mixed here by a product with the weights, and their gradient by a product back.
// 2 b c flops for each row and direction. Memory: the scores and partial gradients of a wave of locations; where scores
// are not packed, one group of rows adds to the gradient itself.
#pragma once

#include "cpu/loss_tile.h"
#include "cpu/sums.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
class MixedScores {
  static constexpr int64_t P = kPanel<Real>, kChain = 64;

 public:
  explicit MixedScores(const LossJob& job)
      : job_(job),
        b_(job.draw.b),
        c_(job.target.c),
        scores_(job.operand, b_, c_, job.draw.keep, layout(job.grad_attention != nullptr)) {}

  int64_t shared_size() const { return scores_.shared_size(); }
  int64_t scratch_size() const { return scores_.packed() ? 0 : std::max(scores_.scratch_size(), stored_rows(b_) * P); }
  int64_t gradient_columns() const { return job_.grad_operand && scores_.packed() ? c_ : 0; }
  int64_t most_groups() const { return scores_.packed() ? kMaxTasks : 1; }
  double products() const { return 1; }
  void allocate(int64_t wave) { scores_.allocate(wave); }
  void begin_wave(ParallelFor run, int64_t first, int64_t count) { scores_.begin_wave(run, first, count); }

  void read(const LossRows<Real>& at, Real* scratch, LossTile<Real>& tile) const {
    for (int64_t p = 0; p < tile.logits.count(); ++p)
      scores_.multiply(at.k, p, at.rows, at.mu, at.stride, scratch, tile.logits.panel(p));
  }

  void add_gradient(const LossRows<Real>& at, Real* scratch, const LossTile<Real>& tile,
                    const Panels<Real>& partial) const {
    if (!scores_.packed()) return add_to_result(at, scratch, tile);
    // Not too many rows in one chain of sums: those of equal terms would drift.
    for (int64_t row = 0; row < at.rows; row += kChain) {
      const auto product = at.is_first && row == 0 ? panel_product<Real, false> : panel_product<Real, true>;
      for (int64_t p = 0; p < partial.count(); ++p)
        product(b_, partial.width(p), std::min(kChain, at.rows - row), {at.mu + row * at.stride, 1, at.stride},
                tile.logits.panel(p) + row * P, partial.panel(p));
    }
  }

  // The part of d loss / d mu_i that comes by the logits: their gradient times s_i.
  void add_to_examples(const LossRows<Real>& at, Real* scratch, LossTile<Real>& tile) const {
    for (int64_t p = 0; p < tile.logits.count(); ++p)
      scores_.multiply_transposed(at.k, p, at.rows, tile.logits.panel(p), scratch, tile.examples, true);
  }

  // Multiplies the wave's gradients by the scale.
  void end_wave(ParallelFor run, const PartialGradients<Real>& partial, int64_t first, int64_t count,
                Real scale) const {
    if (!job_.grad_operand) return;
    parallel(run, count * b_, [&](int64_t k) {
      Real* to = static_cast<Real*>(job_.grad_operand) + (first * b_ + k) * c_;
      if (scores_.packed()) return partial.add_up_operand(k / b_, k % b_, scale, to);
      for (int64_t j = 0; j < c_; ++j) to[j] *= scale;
    });
  }

 private:
  static typename MixOperand<Real>::Layout layout(bool transposed) {
    typename MixOperand<Real>::Layout result;
    result.transposed = transposed;
    result.shifted = true;
    return result;
  }

  void add_to_result(const LossRows<Real>& at, Real* scratch, const LossTile<Real>& tile) const {
    Real* to = static_cast<Real*>(job_.grad_operand) + at.location * b_ * c_;
    for (int64_t p = 0; p < tile.logits.count(); ++p) {
      const int64_t width = tile.logits.width(p);
      panel_product<Real, false>(b_, width, at.rows, {at.mu, 1, at.stride}, tile.logits.panel(p), scratch);
      for (int64_t i = 0; i < b_; ++i)
        for (int64_t j = 0; j < width; ++j) {
          Real& sum = to[i * c_ + p * P + j];
          sum = (at.is_first ? Real(0) : sum) + scratch[i * P + j];
        }
    }
  }

  const LossJob& job_;
  int64_t b_, c_;
  MixOperand<Real> scores_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
