// The losses of mixtures of few examples: scores that are gathered and mixed here, or the logits of any head.
//
// For each row of c classes m c multiply-adds for the mixed scores, c exponentials, m c multiply-adds for the gradient,
// which is scattered; targets from m labels. Rows are mixed and scattered one by one, and exchanged with the lanes in
// between, see few/rows.h. Of examples that are not in a mixture nothing is read. What a loss is, and masks, and digits
// near zero: see loss_tile.h. Memory: the scores and partial gradients of a wave of locations; nothing that grows with
// n.
#pragma once

#include "cpu/few/rows.h"
#include "cpu/few/scores.h"

namespace multimix {
namespace MULTIMIX_ISA {

constexpr int64_t kFewBytes = 8 << 20;    // of scores; more are left to panels, see operands.h
constexpr int64_t kFewClasses = 1 << 16;  // more would need too much memory for a vector of rows

// Whether a loss is computed here.
template <class Real>
bool few_fits(const LossJob& job) {
  const int64_t pitch = round_up(job.target.c, Simd<Real>::lanes);
  return draws_few(job.draw) && pitch <= kFewClasses && job.draw.b * pitch * int64_t(sizeof(Real)) <= kFewBytes;
}

template <class Real, class DrawReal>
class FewCrossEntropy {
  using F = typename Simd<Real>::F;
  using Mixtures = DrawnMixtures<Real, DrawReal>;
  using Gradients = ScatteredGradients<Real>;
  using Group = typename Gradients::Group;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr int64_t kTile = 128;

 public:
  FewCrossEntropy(const LossJob& job, ParallelFor run)
      : job_(job),
        draw_(job.draw),
        mixes_(job.mix_scores),
        operand_grad_(job.grad_operand != nullptr),
        attention_grad_(job.grad_attention != nullptr),
        targets_(job.target, draw_, attention_grad_, run),
        pitch_(targets_.pitch),
        gradient_pitch_(mixes_ && operand_grad_ ? pitch_ : 0),
        schedule_(needs()),
        scores_(job.operand, draw_.b, targets_.c, mixes_ ? schedule_.wave : 0),
        gradients_(schedule_, draw_, gradient_pitch_, attention_grad_),
        totals_(draw_.r * schedule_.groups) {
    const int64_t b = draw_.b, c = targets_.c, pieces = (b + Gradients::kPiece - 1) / Gradients::kPiece;
    const Real scale = Real(job.scale);
    for (first_ = 0; first_ < draw_.r; first_ += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first_);
      if (mixes_) scores_.pack(run, first_, count);
      schedule_.for_each_group(run, count, [&](int64_t k, int64_t group) { work(k, group); });
      if (gradient_pitch_)
        parallel(run, count * pieces, [&](int64_t item) {
          const int64_t k = item / pieces;
          Real* to = static_cast<Real*>(job_.grad_operand) + (first_ + k) * b * c;
          gradients_.add_up_operand(k, item % pieces, c, scale, to);
        });
      if (attention_grad_)
        parallel(run, count, [&](int64_t k) {
          gradients_.add_up_attention(k, scale, static_cast<Real*>(job_.grad_attention) + (first_ + k) * b);
        });
    }
    if (!job.total) return;
    *job.total = 0;
    for (const double part : totals_) *job.total += part;
  }

 private:
  Load needs() const {
    Load x{draw_.n, draw_.r};
    x.row_bytes = sizeof(Real);
    x.task_bytes = (FewRows<Real>::size(targets_) + (mixes_ ? 0 : N * pitch_)) * sizeof(Real);
    x.shared_bytes = mixes_ ? draw_.b * pitch_ * sizeof(Real) : 0;
    x.group_bytes = Gradients::size(draw_.b, gradient_pitch_, attention_grad_) * sizeof(Real);
    return x;
  }

  // All rows of one group of the wave's k-th location.
  void work(int64_t k, int64_t group) {
    const int64_t location = first_ + k, begin = group * schedule_.rows;
    const int64_t end = std::min(begin + schedule_.rows, draw_.n);
    Mixtures mixtures(draw_, kTile, attention_grad_);
    FewRows<Real> block(targets_);
    Buffer<Real> logits(mixes_ ? 0 : N * pitch_);
    if (!mixes_) std::fill_n(logits.get(), N * pitch_, Real(0));
    Group sums = gradients_.begin(k, group);
    Real upstream[kTile], losses[kTile];
    std::fill_n(upstream, kTile, Real(1));
    const Real inverse_scale = Real(1 / job_.scale);
    double total = 0;
    for (int64_t at = begin; at < end; at += kTile) {
      const int64_t rows = std::min(kTile, end - at);
      mixtures.draw(location, at, rows);
      if (job_.grad_rows.data) {
        read_row(job_.grad_rows, 0, location, at, rows, upstream);
        for (int64_t row = 0; row < rows; ++row) upstream[row] *= inverse_scale;
      }
      for (int64_t row = 0; row < rows; row += N) {
        const int64_t count = std::min<int64_t>(N, rows - row);
        if (mixes_)
          block.mix(mixtures, row, scores_.at(k));
        else
          read_logits(location, at + row, count, logits.get(), block);
        store(losses + row, block.measure(mixtures, row));
        if (!operand_grad_ && !attention_grad_) continue;
        block.differentiate();
        if (gradient_pitch_) scatter(sums, mixtures, row, count, upstream + row, block);
        if (operand_grad_ && !mixes_) write_gradients(location, at + row, count, upstream + row, block);
        if (attention_grad_) differentiate_attention(k, sums, mixtures, row, count, upstream + row, block);
      }
      gradients_.join(sums, rows, at + rows == end);
      for (int64_t row = 0; row < rows; ++row) total += losses[row];
      if (job_.rows) std::copy_n(losses, rows, static_cast<Real*>(job_.rows) + location * draw_.n + at);
    }
    totals_[location * schedule_.groups + group] = total;
  }

  void read_logits(int64_t location, int64_t at, int64_t count, Real* logits, FewRows<Real>& block) const {
    for (int64_t l = 0; l < count; ++l) read_row(job_.operand, location, at + l, 0, targets_.c, logits + l * pitch_);
    block.read(logits);
  }

  void scatter(const Group& sums, const Mixtures& mixtures, int64_t row, int64_t count, const Real* upstream,
               const FewRows<Real>& block) const {
    block.each_block([&](int64_t j, const Real* gradients) {
      for (int64_t l = 0; l < count; ++l) {
        const F gradient = load<F>(gradients + l * N) * upstream[l];
        for (int64_t t = 0; t < draw_.m; ++t) {
          Real* to = sums.operand + mixtures.examples(t, row)[l] * pitch_ + j;
          store(to, load<F>(to) + gradient * mixtures.weight(t, row + l));
        }
      }
    });
  }

  void write_gradients(int64_t location, int64_t at, int64_t count, const Real* upstream,
                       const FewRows<Real>& block) const {
    Real* first = static_cast<Real*>(job_.grad_operand) + (location * draw_.n + at) * targets_.c;
    block.each_block([&](int64_t j, const Real* gradients) {
      const int64_t width = std::min<int64_t>(N, targets_.c - j);
      for (int64_t l = 0; l < count; ++l) {
        const Real factor = upstream[l] * Real(job_.scale);
        Real* to = first + l * targets_.c + j;
        for (int64_t v = 0; v < width; ++v) to[v] = gradients[l * N + v] * factor;
      }
    });
  }

  // d loss / d mu_i, centred, times d mu / d a.
  void differentiate_attention(int64_t k, const Group& sums, const Mixtures& mixtures, int64_t row, int64_t count,
                               const Real* upstream, const FewRows<Real>& block) const {
    F by_weight[kFewMost];
    block.differentiate_weights(mixtures, row, mixes_ ? scores_.at(k) : nullptr, by_weight);
    for (int64_t l = 0; l < count; ++l) {
      Real g[kFewMost];
      for (int64_t t = 0; t < draw_.m; ++t) g[t] = by_weight[t][l];
      mixtures.centre(row + l, g);
      mixtures.each(row + l, [&](int64_t t, int64_t example, Real) {
        sums.attention[example] += upstream[l] * mixtures.derivative(t, row + l) * g[t];
      });
    }
  }

  const LossJob& job_;
  const Draw& draw_;
  bool mixes_, operand_grad_, attention_grad_;
  FewTargets<Real> targets_;
  int64_t pitch_, gradient_pitch_;
  Schedule schedule_;
  FewScores<Real> scores_;
  Gradients gradients_;
  Vector<double> totals_;
  int64_t first_ = 0;  // location of the wave
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
