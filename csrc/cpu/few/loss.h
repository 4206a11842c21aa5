// The losses of mixtures of few examples: scores that are gathered and mixed here, or the logits of any head.
//
// For each row of c classes m c multiply-adds for the mixed scores, c exponentials, m c multiply-adds for the gradient,
// which is scattered; targets from m labels. Rows are mixed and scattered one by one, and exchanged with the lanes in
// between, see few/rows.h. Of examples that are not in a mixture nothing is read. What a loss is, and masks, and digits
// near zero: see loss_tile.h. Memory: the scores and partial gradients of a wave of locations; nothing that grows with
// n.
#pragma once

#include "cpu/few/gradients.h"
#include "cpu/few/rows.h"
#include "cpu/few/scores.h"

namespace multimix {
namespace MULTIMIX_ISA {

constexpr int64_t kFewBytes = 8 << 20;    // of scores; more are left to panels, see operands.h
constexpr int64_t kFewClasses = 1 << 16;  // more would need too much memory for a vector of rows

// Whether a loss is computed here. Gathering m of b rows of scores costs as much for each class as a product over about
// 6 m of them; up to 256 classes what is saved in drawing the weights outweighs that.
template <class Real>
bool few_fits(const LossJob& job) {
  const int64_t b = job.draw.b, pitch = round_up(job.target.c, Simd<Real>::lanes);
  const bool is_cheaper = !job.mix_scores || pitch <= 256 || 6 * job.draw.m <= b;
  return draws_few(job.draw) && is_cheaper && pitch <= kFewClasses && b * pitch * int64_t(sizeof(Real)) <= kFewBytes;
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
        gradients_(schedule_, draw_, gradient_pitch_, result()),
        totals_(draw_.r * schedule_.groups) {
    for (first_ = 0; first_ < draw_.r; first_ += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first_), all = count * schedule_.groups;
      if (mixes_) scores_.pack(run, first_, count);
      for (int64_t done = 0; done < all; done += schedule_.at_once)
        in_shares(run, std::min(schedule_.at_once, all - done), double(schedule_.rows) * few_row_ns(draw_.m, pitch_),
                  [&] { return Worker(*this, done); });
      gradients_.end_wave(run, first_, count);
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

  typename Gradients::Result result() const {
    Real* operand = gradient_pitch_ ? static_cast<Real*>(job_.grad_operand) : nullptr;
    return {operand, targets_.c, static_cast<Real*>(job_.grad_attention), Real(job_.scale)};
  }

  // What one thread works with, on groups one after the other.
  class Worker {
   public:
    Worker(FewCrossEntropy& call, int64_t first)
        : c_(call),
          job_(call.job_),
          first_(first),
          pitch_(call.pitch_),
          mixtures_(call.draw_, kTile, call.attention_grad_),
          block_(call.targets_),
          sums_(call.gradients_.make_sums()),
          logits_(call.mixes_ ? 0 : N * pitch_) {
      if (!call.mixes_) std::fill_n(logits_.get(), N * pitch_, Real(0));
    }

    void operator()(int64_t item) {
      item += first_;
      work(item / c_.schedule_.groups, item % c_.schedule_.groups);
    }

   private:
    // All rows of one group of the wave's k-th location.
    void work(int64_t k, int64_t group) {
      const int64_t location = c_.first_ + k, begin = group * c_.schedule_.rows;
      const int64_t end = std::min(begin + c_.schedule_.rows, c_.draw_.n);
      Group sums = c_.gradients_.begin(k, group, sums_);
      Real upstream[kTile], losses[kTile];
      std::fill_n(upstream, kTile, Real(1));
      const Real inverse_scale = Real(1 / job_.scale);
      double total = 0;
      for (int64_t at = begin; at < end; at += kTile) {
        const int64_t rows = std::min(kTile, end - at);
        mixtures_.draw(location, at, rows);
        if (job_.grad_rows.data) {
          read_row(job_.grad_rows, 0, location, at, rows, upstream);
          for (int64_t row = 0; row < rows; ++row) upstream[row] *= inverse_scale;
        }
        for (int64_t row = 0; row < rows; row += N) {
          const int64_t count = std::min<int64_t>(N, rows - row);
          c_.mixes_ ? block_.mix(mixtures_, row, c_.scores_.at(k)) : read_logits(location, at + row, count);
          store(losses + row, block_.measure(mixtures_, row));
          if (!c_.operand_grad_ && !c_.attention_grad_) continue;
          block_.differentiate();
          if (c_.gradient_pitch_) scatter(sums, row, count, upstream + row);
          if (c_.operand_grad_ && !c_.mixes_) write_gradients(location, at + row, count, upstream + row);
          if (c_.attention_grad_) differentiate_attention(k, sums, row, count, upstream + row);
        }
        c_.gradients_.join(sums, rows);
        for (int64_t row = 0; row < rows; ++row) total += losses[row];
        if (job_.rows) std::copy_n(losses, rows, static_cast<Real*>(job_.rows) + location * c_.draw_.n + at);
      }
      c_.gradients_.end(sums, location);
      c_.totals_[location * c_.schedule_.groups + group] = total;
    }

    void read_logits(int64_t location, int64_t at, int64_t count) {
      for (int64_t l = 0; l < count; ++l)
        read_row(job_.operand, location, at + l, 0, c_.targets_.c, logits_.get() + l * pitch_);
      block_.read(logits_.get());
    }

    void scatter(const Group& sums, int64_t row, int64_t count, const Real* upstream) const {
      block_.each_block([&](int64_t j, const Real* gradients) {
        for (int64_t l = 0; l < count; ++l) {
          const F gradient = load<F>(gradients + l * N) * upstream[l];
          for (int64_t t = 0; t < mixtures_.count(); ++t) {
            Real* to = sums.operand + mixtures_.examples(t, row)[l] * pitch_ + j;
            store(to, load<F>(to) + gradient * mixtures_.weight(t, row + l));
          }
        }
      });
    }

    void write_gradients(int64_t location, int64_t at, int64_t count, const Real* upstream) const {
      const int64_t c = c_.targets_.c;
      Real* first = static_cast<Real*>(job_.grad_operand) + (location * c_.draw_.n + at) * c;
      block_.each_block([&](int64_t j, const Real* gradients) {
        for (int64_t l = 0; l < count; ++l) {
          const Real factor = upstream[l] * Real(job_.scale);
          for (int64_t v = 0; v < std::min<int64_t>(N, c - j); ++v)
            first[l * c + j + v] = gradients[l * N + v] * factor;
        }
      });
    }

    // d loss / d mu_i, centred, times d mu / d a.
    void differentiate_attention(int64_t k, const Group& sums, int64_t row, int64_t count, const Real* upstream) const {
      F by_weight[kFewMost];
      block_.differentiate_weights(mixtures_, row, c_.mixes_ ? c_.scores_.at(k) : nullptr, by_weight);
      for (int64_t l = 0; l < count; ++l) {
        Real g[kFewMost];
        for (int64_t t = 0; t < mixtures_.count(); ++t) g[t] = by_weight[t][l];
        mixtures_.centre(row + l, g);
        mixtures_.each(row + l, [&](int64_t t, int64_t example, Real) {
          sums.attention[example] += upstream[l] * mixtures_.derivative(t, row + l) * g[t];
        });
      }
    }

    FewCrossEntropy& c_;
    const LossJob& job_;
    int64_t first_, pitch_;
    Mixtures mixtures_;
    FewRows<Real> block_;
    Buffer<Real> sums_;
    Buffer<Real> logits_;  // of a vector of rows, if they are given
  };

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
