// The losses of mixtures of few examples: scores that are gathered and mixed here, or the logits of any head.
//
// One pass per row of c classes, in the first-level cache: m c multiply-adds for the mixed scores, c exponentials, m c
// multiply-adds for the gradient, which is scattered; targets from m labels. Of examples that are not in a mixture
// nothing is read. What a loss is, and masks, and digits near zero: see loss_tile.h. Memory: the scores and partial
// gradients of a wave of locations; nothing that grows with n.
#pragma once

#include "cpu/few/mixtures.h"
#include "cpu/few/row.h"

namespace multimix {
namespace MULTIMIX_ISA {

constexpr int64_t kFewBytes = 8 << 20;  // of scores; more are left to panels, see operands.h

// Whether a loss is computed here.
template <class Real>
bool few_fits(const LossJob& job) {
  return draws_few(job.draw) &&
         job.draw.b * round_up(job.target.c, Simd<Real>::lanes) * int64_t(sizeof(Real)) <= kFewBytes;
}

template <class Real, class DrawReal>
class FewCrossEntropy {
  using F = typename Simd<Real>::F;
  using Mixtures = FewMixtures<Real, DrawReal>;
  using Group = typename ScatteredGradients<Real>::Group;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr int64_t kTile = 128;
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

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
        scores_(mixes_ ? schedule_.wave * draw_.b * pitch_ : 0, "scores"),
        gradients_(schedule_, draw_, gradient_pitch_, attention_grad_),
        totals_(draw_.r * schedule_.groups) {
    const int64_t b = draw_.b, c = targets_.c;
    const Real scale = Real(job.scale);
    for (first_ = 0; first_ < draw_.r; first_ += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first_);
      if (mixes_) parallel(run, count * b, [&](int64_t k) { pack(k / b, k % b); });
      schedule_.for_each_group(run, count, [&](int64_t k, int64_t group) { work(k, group); });
      if (gradient_pitch_)
        parallel(run, count * b, [&](int64_t k) {
          Real* to = static_cast<Real*>(job_.grad_operand) + (first_ * b + k) * c;
          gradients_.add_up_operand(k / b, k % b, c, scale, to);
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
    x.task_bytes = FewRow<Real>::size(targets_) * sizeof(Real);
    x.shared_bytes = mixes_ ? draw_.b * pitch_ * sizeof(Real) : 0;
    x.group_bytes = ScatteredGradients<Real>::size(draw_.b, gradient_pitch_, attention_grad_) * sizeof(Real);
    return x;
  }

  Real* scores(int64_t k, int64_t i) const { return scores_.get() + (k * draw_.b + i) * pitch_; }

  // Columns beyond c are classes that do not exist.
  void pack(int64_t k, int64_t i) const {
    Real* to = scores(k, i);
    read_row(job_.operand, first_ + k, i, 0, targets_.c, to);
    std::fill(to + targets_.c, to + pitch_, -kInfinity);
    const Real offset = common_offset(to, targets_.c);
    if (offset != 0)
      for (int64_t j = 0; j < pitch_; j += N) store(to + j, load<F>(to + j) - offset);
  }

  // All rows of one group of the wave's k-th location.
  void work(int64_t k, int64_t group) {
    const int64_t location = first_ + k, first = group * schedule_.rows;
    const int64_t last = std::min(first + schedule_.rows, draw_.n);
    Mixtures mixtures(draw_, kTile, attention_grad_);
    FewRow<Real> row(targets_);
    Group sums = gradients_.begin(k, group);
    Real upstream[kTile], losses[kTile], ones[kTile], others[kTile], masses[kTile];
    std::fill_n(upstream, kTile, Real(1));
    const Real inverse_scale = Real(1 / job_.scale);
    double total = 0;
    for (int64_t at = first; at < last; at += kTile) {
      const int64_t rows = std::min(kTile, last - at);
      mixtures.draw(location, at, rows);
      if (job_.grad_rows.data) {
        read_row(job_.grad_rows, 0, location, at, rows, upstream);
        for (int64_t i = 0; i < rows; ++i) upstream[i] *= inverse_scale;
      }
      for (int64_t i = 0; i < rows; ++i) {
        mixes_ ? mix_scores(k, mixtures, i, row) : read_logits(location, at + i, row);
        losses[i] = row.measure(mixtures, i);
        ones[i] = row.ones, others[i] = row.others, masses[i] = row.mass;
        if (!operand_grad_ && !attention_grad_) continue;
        row.differentiate(mixtures, i);
        if (gradient_pitch_) scatter(sums, mixtures, i, upstream[i], row);
        if (operand_grad_ && !mixes_) write_gradient(location, at + i, upstream[i], row);
        if (attention_grad_) differentiate_attention(k, sums, mixtures, i, upstream[i], row);
      }
      gradients_.join(k, group, sums, rows, at + rows == last);
      add_logarithms(rows, ones, others, masses, losses);
      for (int64_t i = 0; i < rows; ++i) total += losses[i];
      if (job_.rows) std::copy_n(losses, rows, static_cast<Real*>(job_.rows) + location * draw_.n + at);
    }
    totals_[location * schedule_.groups + group] = total;
  }

  // loss += mass ln(sum of exponentials), a vector of rows at a time.
  static void add_logarithms(int64_t rows, Real* ones, Real* others, Real* masses, Real* losses) {
    for (int64_t i = rows; i % N != 0; ++i) ones[i] = 1, others[i] = masses[i] = losses[i] = 0;
    for (int64_t i = 0; i < rows; i += N) {
      const F mass = load<F>(masses + i), logarithm = log_of_sum(load<F>(ones + i), load<F>(others + i));
      store(losses + i, load<F>(losses + i) + (mass == 0 ? F{} : mass * logarithm));
    }
  }

  void mix_scores(int64_t k, const Mixtures& mixtures, int64_t i, FewRow<Real>& row) const {
    bool first = true;
    mixtures.each(i, [&](int64_t example, Real weight, Real) {
      if (weight == 0) return;  // zero times the score of a masked class is zero
      const Real* s = scores(k, example);
      for (int64_t j = 0; j < pitch_; j += N)
        store(row.x + j, first ? load<F>(s + j) * weight : load<F>(row.x + j) + load<F>(s + j) * weight);
      first = false;
    });
  }

  void read_logits(int64_t location, int64_t at, FewRow<Real>& row) const {
    read_row(job_.operand, location, at, 0, targets_.c, row.x);
    std::fill(row.x + targets_.c, row.x + pitch_, -kInfinity);
  }

  void scatter(const Group& sums, const Mixtures& mixtures, int64_t i, Real upstream, const FewRow<Real>& row) const {
    mixtures.each(i, [&](int64_t example, Real weight, Real) {
      Real* to = sums.operand + example * pitch_;
      const Real factor = weight * upstream;
      for (int64_t j = 0; j < pitch_; j += N) store(to + j, load<F>(to + j) + load<F>(row.x + j) * factor);
    });
  }

  void write_gradient(int64_t location, int64_t at, Real upstream, const FewRow<Real>& row) const {
    const Real factor = upstream * Real(job_.scale);
    Real* to = static_cast<Real*>(job_.grad_operand) + (location * draw_.n + at) * targets_.c;
    for (int64_t j = 0; j < targets_.c; ++j) to[j] = row.x[j] * factor;
  }

  // d loss / d mu_i = (gradient of the logits) . s_i + (loss against target i), centred, times d mu / d a.
  void differentiate_attention(int64_t k, const Group& sums, const Mixtures& mixtures, int64_t i, Real upstream,
                               const FewRow<Real>& row) const {
    const Real logarithm = log_of_sum(splat<F>(row.ones), splat<F>(row.others))[0];
    Real by_weight[kFewMost];
    int64_t t = 0;
    mixtures.each(i, [&](int64_t example, Real, Real) {
      const Real by_logits = mixes_ ? row.dot(scores(k, example)) : Real(0);
      by_weight[t++] = by_logits + row.loss_against(example, logarithm);
    });
    mixtures.centre(i, by_weight);
    t = 0;
    mixtures.each(i, [&](int64_t example, Real, Real derivative) {
      sums.attention[example] += upstream * derivative * by_weight[t++];
    });
  }

  const LossJob& job_;
  const Draw& draw_;
  bool mixes_, operand_grad_, attention_grad_;
  FewTargets<Real> targets_;
  int64_t pitch_, gradient_pitch_;
  Schedule schedule_;
  Buffer<Real> scores_;
  ScatteredGradients<Real> gradients_;
  Vector<double> totals_;
  int64_t first_ = 0;  // location of the wave
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
