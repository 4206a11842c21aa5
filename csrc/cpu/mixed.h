// The mixed loss: scores (r, b, c), mixed here by a product with the weights, and their gradient by a product back.
// 2 b c flops for each row and direction, of bfloat16 where the operand is or may be rounded to that. Memory: the
// scores and partial gradients of a wave of locations; where scores are not packed, one group of rows adds to the
// gradient itself.
#pragma once

#include "cpu/loss_tile.h"
#include "cpu/pairs.h"
#include "cpu/sums.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
class MixedScores {
  static constexpr int64_t P = kPanel<Real>, kChain = 64, kMostRows = 128;
  static constexpr bool kNarrow = kHasPairs && std::is_same_v<Real, float>;

 public:
  explicit MixedScores(const LossJob& job)
      : job_(job),
        b_(job.draw.b),
        c_(job.target.c),
        scores_(job.operand, b_, c_, job.draw.keep, layout(job.grad_attention != nullptr)),
        narrow_(kNarrow && job.narrow && !job.grad_attention && scores_.packed()),
        pairs_size_(narrow_ ? Panels<Real>::count(c_) * pair_rows() * P : 0) {}

  int64_t shared_size() const { return scores_.shared_size() + pairs_size_; }
  int64_t scratch_size() const {
    if (narrow_) return kMostRows + std::max(kMostRows * left_pitch(), kChain / 2 * right_pitch());
    return scores_.packed() ? 0 : std::max(scores_.scratch_size(), stored_rows(b_) * P);
  }
  int64_t gradient_columns() const { return job_.grad_operand && scores_.packed() ? c_ : 0; }
  int64_t most_groups() const { return scores_.packed() ? kMaxTasks : 1; }
  double products() const { return narrow_ ? 0.5 : 1; }
  void allocate(int64_t wave) {
    scores_.allocate(wave);
    pairs_ = Buffer<uint32_t>(wave * pairs_size_, "examples in pairs");
  }
  void begin_wave(ParallelFor run, int64_t first, int64_t count) {
    scores_.begin_wave(run, first, count);
    if (narrow_) parallel(run, count * pair_rows(), [&](int64_t k) { pack_pair(k / pair_rows(), k % pair_rows()); });
  }

  void read(const LossRows<Real>& at, Real* scratch, LossTile<Real>& tile) const {
    if (narrow_) return read_narrow(at, scratch, tile);
    for (int64_t p = 0; p < tile.logits.count(); ++p)
      scores_.multiply(at.k, p, at.rows, at.mu, at.stride, scratch, tile.logits.panel(p));
  }

  void add_gradient(const LossRows<Real>& at, Real* scratch, const LossTile<Real>& tile,
                    const Panels<Real>& partial) const {
    if (!scores_.packed()) return add_to_result(at, scratch, tile);
    if (narrow_) return add_narrow(at, scratch, tile, partial);
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
    result.scores = true;
    return result;
  }

  int64_t pair_rows() const { return (b_ + 1) / 2; }
  int64_t left_pitch() const { return round_up(b_, 32) / 2; }  // words of a row of weights
  int64_t right_pitch() const { return round_up(b_, 16); }     // words of a pair of rows of weights
  uint32_t* pairs(int64_t k, int64_t p) const { return pairs_.get() + k * pairs_size_ + p * pair_rows() * P; }

  void pack_pair([[maybe_unused]] int64_t k, [[maybe_unused]] int64_t i) const {
    if constexpr (kNarrow)
      for (int64_t p = 0; p < Panels<Real>::count(c_); ++p)
        interleave(scores_.row(k, p, 2 * i), 2 * i + 1 < b_ ? scores_.row(k, p, 2 * i + 1) : nullptr, P,
                   pairs(k, p) + i * P);
  }

  void read_narrow([[maybe_unused]] const LossRows<Real>& at, [[maybe_unused]] Real* scratch,
                   [[maybe_unused]] LossTile<Real>& tile) const {
    if constexpr (kNarrow) {
      uint32_t* left = reinterpret_cast<uint32_t*>(scratch + kMostRows);
      const int64_t stored = stored_rows(at.rows), pitch = left_pitch();
      for (int64_t row = 0; row < stored; ++row)
        scratch[row] = row < at.rows ? 1 / pair_up(at.mu + row * at.stride, b_, left + row * pitch) : Real(0);
      std::fill(left + at.rows * pitch, left + stored * pitch, 0u);
      for (int64_t p = 0; p < tile.logits.count(); ++p)
        if (scores_.is_careful(at.k, p))
          scores_.multiply(at.k, p, at.rows, at.mu, at.stride, nullptr, tile.logits.panel(p));
        else
          pairs_product<false>(at.rows, tile.logits.width(p), left, pitch, 1, pairs(at.k, p), pair_rows(), scratch,
                               tile.logits.panel(p));
    }
  }

  // The gradients of pairs of rows take the place of the rows.
  void add_narrow([[maybe_unused]] const LossRows<Real>& at, [[maybe_unused]] Real* scratch,
                  [[maybe_unused]] const LossTile<Real>& tile, [[maybe_unused]] const Panels<Real>& partial) const {
    if constexpr (kNarrow) {
      uint32_t* left = reinterpret_cast<uint32_t*>(scratch + kMostRows);
      for (int64_t row = 0; row < at.rows; row += kChain) {
        const int64_t rows = std::min(kChain, at.rows - row), depth = (rows + 1) / 2;
        const Real* mu = at.mu + row * at.stride;
        for (int64_t k = 0; k < depth; ++k)
          interleave(mu + 2 * k * at.stride, 2 * k + 1 < rows ? mu + (2 * k + 1) * at.stride : nullptr, b_,
                     left + k * right_pitch());
        const auto product = at.is_first && row == 0 ? pairs_product<false> : pairs_product<true>;
        for (int64_t p = 0; p < partial.count(); ++p) {
          const Real* from = tile.logits.panel(p) + row * P;
          uint32_t* right = reinterpret_cast<uint32_t*>(tile.logits.panel(p)) + row * P;
          for (int64_t k = 0; k < depth; ++k)
            interleave(from + 2 * k * P, 2 * k + 1 < rows ? from + (2 * k + 1) * P : nullptr, P, right + k * P);
          product(b_, partial.width(p), left, 1, right_pitch(), right, depth, nullptr, partial.panel(p));
        }
      }
    }
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
  bool narrow_;
  int64_t pairs_size_;
  Buffer<uint32_t> pairs_;  // of the scores
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
