// The loss operators: scores that are mixed here, or the logits of any head; the gradients in the same pass.
//
// Per row: b gammas; for scores 2 b c flops for the mixed scores and 2 b c for the gradient, c exponentials. Memory:
// the scores and partial gradients of a wave of locations; nothing that grows with n.
#pragma once

#include "cpu/attention.h"
#include "cpu/loss_tile.h"
#include "cpu/sums.h"
#include "cpu/tile_weights.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real, class DrawReal>
class CrossEntropy {
  static constexpr int64_t P = kPanel<Real>;

 public:
  CrossEntropy(const LossJob& job, ParallelFor run)
      : job_(job),
        draw_(job.draw),
        b_(draw_.b),
        c_(job.target.c),
        mixes_(job.mix_scores),
        operand_grad_(job.grad_operand != nullptr),
        attention_grad_(job.grad_attention != nullptr),
        targets_(job.target, b_, attention_grad_),
        stride_(Sampler<Real>::stride(b_)),
        scores_size_(mixes_ ? Panels<Real>::size(b_, c_) : 0),
        transposed_size_(mixes_ && attention_grad_ ? Panels<Real>::size(c_, b_) : 0),
        gradient_columns_(mixes_ && operand_grad_ ? c_ : 0),
        schedule_(draw_.n, draw_.r,
                  LossTile<Real>::row_bytes(targets_, attention_grad_) +
                      stride_ * int64_t(sizeof(Real)) * (attention_grad_ ? 2 : 1),
                  (scores_size_ + transposed_size_) * sizeof(Real),
                  PartialGradients<Real>::size(b_, gradient_columns_, attention_grad_) * sizeof(Real)),
        scores_(schedule_.wave * (scores_size_ + transposed_size_)),
        gradients_(schedule_, b_, gradient_columns_, attention_grad_),
        totals_(draw_.r * schedule_.groups) {
    for (int64_t first = 0; first < draw_.r; first += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first);
      first_ = first;
      if (mixes_) parallel(run, count * b_, [&](int64_t k) { pack(k / b_, k % b_); });
      parallel(run, count * schedule_.groups, [&](int64_t k) { work(k / schedule_.groups, k % schedule_.groups); });
      if (gradient_columns_)
        parallel(run, count * b_, [&](int64_t k) {
          gradients_.add_up_operand(k / b_, k % b_, static_cast<Real*>(job_.grad_operand) + (first_ * b_ + k) * c_);
        });
      if (attention_grad_)
        parallel(run, count, [&](int64_t k) {
          gradients_.add_up_attention(k, static_cast<Real*>(job_.grad_attention) + (first_ + k) * b_);
        });
    }
    if (job_.total) {
      double total = 0;
      for (const double part : totals_) total += part;
      *job_.total = total;
    }
  }

 private:
  Panels<Real> scores(int64_t k) const { return {scores_.get() + k * (scores_size_ + transposed_size_), b_, c_}; }
  Panels<Real> transposed(int64_t k) const {
    return {scores_.get() + k * (scores_size_ + transposed_size_) + scores_size_, c_, b_};
  }

  // A number to take from all of an example's scores: neither the loss nor the gradient changes. It keeps the digits of
  // scores that share a large offset, and leaves others as they are, since subtracting rounds.
  static Real shift(const Vector<Real>& row) {
    const auto [low, high] = std::minmax_element(row.begin(), row.end());
    const Real middle = *low / 2 + *high / 2;
    return std::abs(middle) > *high - *low && std::isfinite(middle) ? middle : Real(0);
  }

  // The scores of example i at the wave's k-th location into panels.
  void pack(int64_t k, int64_t i) {
    const Panels<Real> s = scores(k), t = transposed(k);
    Vector<Real> row(c_);
    // What an ignored example holds, NaN say, must not reach a sum.
    if (!(draw_.keep && draw_.keep[i] == 0)) read_row(job_.operand, first_ + k, i, 0, c_, row.data());
    const Real offset = shift(row);
    for (int64_t p = 0; p < s.count(); ++p) {
      Real* to = s.panel(p) + i * P;
      const int64_t width = s.width(p);
      for (int64_t j = 0; j < width; ++j) to[j] = row[p * P + j] - offset;
      for (int64_t j = width; j < P; ++j) to[j] = kPadding;
    }
    if (!transposed_size_) return;
    const int64_t last = i + 1 < b_ ? i + 1 : t.count() * P;  // columns beyond b are multiplied along
    for (int64_t j = 0; j < c_; ++j) {
      *t.at(j, i) = row[j] - offset;
      for (int64_t beyond = i + 1; beyond < last; ++beyond) *t.at(j, beyond) = 0;
    }
  }

  // All rows of one group of the wave's k-th location.
  void work(int64_t k, int64_t group) {
    const int64_t location = first_ + k, first = group * schedule_.rows;
    const int64_t last = std::min(first + schedule_.rows, draw_.n);
    const int64_t size = round_up(schedule_.tile, kRows) * stride_ + Sampler<Real>::padding() + kRows;
    Buffer<Real> memory(size * (attention_grad_ ? 2 : 1));
    Real* mu = memory.get();
    Real* plain = attention_grad_ ? mu + size : nullptr;
    TileSampler<Real, DrawReal> sampler(draw_, schedule_.tile);
    LossTile<Real> tile(targets_, schedule_.tile, attention_grad_);
    if (attention_grad_) gradients_.clear_attention(k, group);
    Vector<Real> row_gradients(schedule_.tile, Real(job_.grad_row));
    const bool want_gradient = operand_grad_ || attention_grad_;
    double total = 0;
    for (int64_t at = first; at < last; at += schedule_.tile) {
      const int64_t rows = std::min(schedule_.tile, last - at);
      sampler.draw(location, at, rows, mu, plain);
      mixes_ ? mix_scores(k, rows, mu, tile) : read_logits(location, at, rows, tile);
      tile.mix_targets(rows, mu, stride_);
      if (job_.grad_rows.data) read_row(job_.grad_rows, 0, location, at, rows, row_gradients.data());
      for (int64_t row = 0; row < rows; ++row) {
        const Real loss = tile.row(row, mu + row * stride_, row_gradients[row], want_gradient);
        total += loss;
        if (job_.rows) static_cast<Real*>(job_.rows)[location * draw_.n + at + row] = loss;
      }
      if (operand_grad_)
        mixes_ ? add_gradient(k, group, rows, mu, tile, at > first) : write_gradient(location, at, rows, tile);
      if (attention_grad_) add_attention_gradient(k, group, rows, mu, plain, tile);
    }
    totals_[location * schedule_.groups + group] = total;
  }

  void mix_scores(int64_t k, int64_t rows, const Real* mu, LossTile<Real>& tile) const {
    const Panels<Real> s = scores(k);
    for (int64_t p = 0; p < s.count(); ++p)
      panel_product<Real, false>(rows, s.width(p), b_, {mu, stride_, 1}, s.panel(p), tile.logits.panel(p));
  }

  void read_logits(int64_t location, int64_t at, int64_t rows, LossTile<Real>& tile) const {
    for (int64_t p = 0; p < tile.logits.count(); ++p)
      for (int64_t row = 0; row < rows; ++row) {
        Real* to = tile.logits.panel(p) + row * P;
        const int64_t width = tile.logits.width(p);
        read_row(job_.operand, location, at + row, p * P, width, to);
        for (int64_t j = width; j < P; ++j) to[j] = kPadding;
      }
  }

  void add_gradient(int64_t k, int64_t group, int64_t rows, const Real* mu, const LossTile<Real>& tile,
                    bool accumulate) const {
    const Panels<Real> g = gradients_.operand(k, group);
    const auto product = accumulate ? panel_product<Real, true> : panel_product<Real, false>;
    for (int64_t p = 0; p < g.count(); ++p)
      product(b_, g.width(p), rows, {mu, 1, stride_}, tile.logits.panel(p), g.panel(p));
  }

  void write_gradient(int64_t location, int64_t at, int64_t rows, const LossTile<Real>& tile) const {
    Real* to = static_cast<Real*>(job_.grad_operand) + (location * draw_.n + at) * c_;
    for (int64_t row = 0; row < rows; ++row)
      for (int64_t p = 0; p < tile.logits.count(); ++p)
        std::copy_n(tile.logits.panel(p) + row * P, tile.logits.width(p), to + row * c_ + p * P);
  }

  // d loss / d mu_i = (gradient of the logits) . s_i + (loss against target i), centred, times d mu / d a.
  void add_attention_gradient(int64_t k, int64_t group, int64_t rows, const Real* mu, const Real* plain,
                              LossTile<Real>& tile) const {
    if (mixes_)
      for (int64_t q = 0; q < tile.examples.count(); ++q)
        for (int64_t p = 0; p < tile.logits.count(); ++p)
          LossTile<Real>::add_product(rows, tile.examples.width(q), tile.logits.width(p), tile.logits.panel(p),
                                      transposed(k).panel(q) + p * P * P, tile.examples.panel(q), true);
    add_centred(rows, b_, mu, plain, stride_, tile.examples, gradients_.attention(k, group));
  }

  static constexpr Real kPadding = std::numeric_limits<Real>::lowest() / 4;

  const LossJob& job_;
  const Draw& draw_;
  int64_t b_, c_;
  bool mixes_, operand_grad_, attention_grad_;
  Targets<Real> targets_;
  int64_t stride_, scores_size_, transposed_size_, gradient_columns_;
  Schedule schedule_;
  Buffer<Real> scores_;
  PartialGradients<Real> gradients_;
  Vector<double> totals_;
  int64_t first_ = 0;  // location of the wave
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
