// Embeddings of mixtures of few examples: m rows are gathered and mixed, their gradients are scattered.
//
// m d multiply-adds for each row and direction. Values are read where they lie, one piece of a row at a time, and
// nothing is read of examples that are not in a mixture.
#pragma once

#include "cpu/elements.h"
#include "cpu/few/gradients.h"
#include "cpu/few/mixtures.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real, class DrawReal>
class FewMix {
  using F = typename Simd<Real>::F;
  using Mixtures = DrawnMixtures<Real, DrawReal>;
  using Gradients = ScatteredGradients<Real>;
  using Group = typename Gradients::Group;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr int64_t kTile = 128;
  static constexpr int64_t kPiece = 512;  // columns

 public:
  FewMix(const MixJob& job, ParallelFor run)
      : job_(job),
        draw_(job.draw),
        b_(draw_.b),
        d_(job.d),
        values_grad_(job.grad_values != nullptr),
        attention_grad_(job.grad_attention != nullptr),
        pitch_(values_grad_ ? round_up(d_, N) : 0),
        schedule_(needs()),
        gradients_(schedule_, draw_, pitch_,
                   {static_cast<Real*>(job.grad_values), d_, static_cast<Real*>(job.grad_attention), Real(1)}) {
    for (first_ = 0; first_ < draw_.r; first_ += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first_);
      in_shares(run, count * schedule_.groups, double(schedule_.rows) * few_row_ns(draw_.m, d_), [&] {
        return [&, mixtures = Mixtures(draw_, kTile, attention_grad_), own = gradients_.make_sums()](
                   int64_t k) mutable { work(k / schedule_.groups, k % schedule_.groups, mixtures, own); };
      });
      gradients_.end_wave(run, first_, count);
    }
  }

 private:
  Load needs() const {
    Load x{draw_.n, draw_.r};
    x.row_bytes = sizeof(Real);
    x.group_bytes = Gradients::size(b_, pitch_, attention_grad_) * sizeof(Real);
    return x;
  }

  // All rows of one group of the wave's k-th location.
  void work(int64_t k, int64_t group, Mixtures& mixtures, const Buffer<Real>& own) const {
    const int64_t location = first_ + k, first = group * schedule_.rows;
    const int64_t last = std::min(first + schedule_.rows, draw_.n);
    Group sums = gradients_.begin(k, group, own);
    for (int64_t at = first; at < last; at += kTile) {
      const int64_t rows = std::min(kTile, last - at);
      mixtures.draw(location, at, rows);
      for (int64_t i = 0; i < rows; ++i)
        job_.mixed ? mix(location, at + i, mixtures, i) : differentiate(sums, location, at + i, mixtures, i);
      gradients_.join(sums, rows);
    }
    gradients_.end(sums, location);
  }

  void mix(int64_t location, int64_t at, const Mixtures& mixtures, int64_t i) const {
    Real total[kPiece], value[kPiece];
    for (int64_t j = 0; j < d_; j += kPiece) {
      const int64_t width = std::min(kPiece, d_ - j);
      std::fill_n(total, round_up(width, N), Real(0));
      mixtures.each(i, [&](int64_t, int64_t example, Real weight) {
        if (weight == 0) return;
        read(job_.values, location, example, j, width, value);
        for (int64_t v = 0; v < width; v += N) store(total + v, load<F>(total + v) + load<F>(value + v) * weight);
      });
      write_row(job_.mixed, job_.values.dtype, (location * draw_.n + at) * d_ + j, width, total);
    }
  }

  // d loss / d mu_i = gradient . value_i, centred, times d mu / d a.
  void differentiate(const Group& sums, int64_t location, int64_t at, const Mixtures& mixtures, int64_t i) const {
    Real gradient[kPiece], value[kPiece], by_weight[kFewMost] = {};
    for (int64_t j = 0; j < d_; j += kPiece) {
      const int64_t width = std::min(kPiece, d_ - j);
      read(job_.grad, location, at, j, width, gradient);
      mixtures.each(i, [&](int64_t t, int64_t example, Real weight) {
        if (values_grad_ && weight != 0) {
          Real* to = sums.operand + example * pitch_ + j;
          for (int64_t v = 0; v < width; v += N) store(to + v, load<F>(to + v) + load<F>(gradient + v) * weight);
        }
        if (!attention_grad_) return;
        read(job_.values, location, example, j, width, value);
        F dot{};
        for (int64_t v = 0; v < width; v += N) dot += load<F>(gradient + v) * load<F>(value + v);
        by_weight[t] += sum(dot);
      });
    }
    if (!attention_grad_) return;
    mixtures.centre(i, by_weight);
    mixtures.each(i, [&](int64_t t, int64_t example, Real) {
      sums.attention[example] += mixtures.derivative(t, i) * by_weight[t];
    });
  }

  // Columns j ... j + width - 1 of a row, and zeros up to a whole vector.
  static void read(const Strided& from, int64_t location, int64_t row, int64_t j, int64_t width, Real* to) {
    read_row(from, location, row, j, width, to);
    std::fill(to + width, to + round_up(width, N), Real(0));
  }

  const MixJob& job_;
  const Draw& draw_;
  int64_t b_, d_;
  bool values_grad_, attention_grad_;
  int64_t pitch_;
  Schedule schedule_;
  Gradients gradients_;
  int64_t first_ = 0;  // location of the wave
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
