// Mixed embeddings mu @ values, and their gradients. 2 b d flops for each row and direction; the weights are drawn
// again in the backward pass.
#pragma once

#include "cpu/elements.h"
#include "cpu/schedule.h"
#include "cpu/sums.h"
#include "cpu/tile_weights.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real, class DrawReal>
class Mix {
  static constexpr int64_t P = kPanel<Real>;

 public:
  Mix(const MixJob& job, ParallelFor run)
      : job_(job),
        draw_(job.draw),
        b_(draw_.b),
        d_(job.d),
        backward_(job.mixed == nullptr),
        values_grad_(job.grad_values != nullptr),
        attention_grad_(job.grad_attention != nullptr),
        stride_(Sampler<Real>::stride(b_)),
        values_size_(backward_ ? 0 : Panels<Real>::size(b_, d_)),
        transposed_size_(attention_grad_ ? Panels<Real>::size(d_, b_) : 0),
        gradient_columns_(values_grad_ ? d_ : 0),
        schedule_(draw_.n, draw_.r,
                  (stride_ * (attention_grad_ ? 2 : 1) + P + (attention_grad_ ? b_ + P : 0)) * sizeof(Real),
                  (values_size_ + transposed_size_) * sizeof(Real),
                  PartialGradients<Real>::size(b_, gradient_columns_, attention_grad_) * sizeof(Real)),
        values_(schedule_.wave * (values_size_ + transposed_size_)),
        gradients_(schedule_, b_, gradient_columns_, attention_grad_) {
    for (first_ = 0; first_ < draw_.r; first_ += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first_);
      parallel(run, count, [&](int64_t k) { pack(k); });
      parallel(run, count * schedule_.groups, [&](int64_t k) { work(k / schedule_.groups, k % schedule_.groups); });
      if (gradient_columns_)
        parallel(run, count * b_, [&](int64_t k) {
          gradients_.add_up_operand(k / b_, k % b_, static_cast<Real*>(job_.grad_values) + (first_ * b_ + k) * d_);
        });
      if (attention_grad_)
        parallel(run, count, [&](int64_t k) {
          gradients_.add_up_attention(k, static_cast<Real*>(job_.grad_attention) + (first_ + k) * b_);
        });
    }
  }

 private:
  Real* shared(int64_t k) const { return values_.get() + k * (values_size_ + transposed_size_); }

  void pack(int64_t k) const {
    if (values_size_ + transposed_size_ == 0) return;
    std::fill(shared(k), shared(k) + values_size_ + transposed_size_, Real(0));
    const Panels<Real> v(shared(k), b_, d_), t(shared(k), d_, b_);
    Vector<Real> row(d_);
    for (int64_t i = 0; i < b_; ++i) {
      if (draw_.keep && draw_.keep[i] == 0) continue;  // what an ignored example holds must not reach a sum
      read_row(job_.values, first_ + k, i, 0, d_, row.data());
      for (int64_t j = 0; j < d_; ++j) *(backward_ ? t.at(j, i) : v.at(i, j)) = row[j];
    }
  }

  void work(int64_t k, int64_t group) {
    const int64_t location = first_ + k, first = group * schedule_.rows;
    const int64_t last = std::min(first + schedule_.rows, draw_.n);
    const int64_t tile = round_up(schedule_.tile, kRows);
    const int64_t size = tile * stride_ + Sampler<Real>::padding() + kRows;
    const int64_t examples_size = attention_grad_ ? Panels<Real>::size(tile, b_) : 0;
    const int64_t total = size * (attention_grad_ ? 2 : 1) + tile * P + examples_size;
    Buffer<Real> memory(total);
    Real* mu = memory.get() + tile * P;
    Real* plain = attention_grad_ ? mu + size : nullptr;
    Panels<Real> panel(memory.get(), tile, P), examples(mu + size * 2, tile, b_);
    TileSampler<Real, DrawReal> sampler(draw_, schedule_.tile);
    if (attention_grad_) gradients_.clear_attention(k, group);
    for (int64_t at = first; at < last; at += schedule_.tile) {
      const int64_t rows = std::min(schedule_.tile, last - at);
      sampler.draw(location, at, rows, mu, plain);
      for (int64_t p = 0; p < Panels<Real>::count(d_); ++p)
        backward_ ? differentiate(k, group, at, rows, p, mu, panel, examples, at > first)
                  : mix(k, at, rows, p, mu, panel);
      if (attention_grad_) add_centred(rows, b_, mu, plain, stride_, examples, gradients_.attention(k, group));
    }
  }

  void mix(int64_t k, int64_t at, int64_t rows, int64_t p, const Real* mu, const Panels<Real>& panel) const {
    const Panels<Real> v(shared(k), b_, d_);
    panel_product<Real, false>(rows, v.width(p), b_, {mu, stride_, 1}, v.panel(p), panel.data);
    for (int64_t row = 0; row < rows; ++row)
      write_row(job_.mixed, job_.values.dtype, ((first_ + k) * draw_.n + at + row) * d_ + p * P, v.width(p),
                panel.data + row * P);
  }

  void differentiate(int64_t k, int64_t group, int64_t at, int64_t rows, int64_t p, const Real* mu,
                     const Panels<Real>& panel, const Panels<Real>& examples, bool accumulate) const {
    const int64_t width = std::min(P, d_ - p * P);
    for (int64_t row = 0; row < rows; ++row)
      read_row(job_.grad, first_ + k, at + row, p * P, width, panel.data + row * P);
    if (values_grad_) {
      const Panels<Real> g = gradients_.operand(k, group);
      (accumulate ? panel_product<Real, true> : panel_product<Real, false>)(b_, width, rows, {mu, 1, stride_},
                                                                            panel.data, g.panel(p));
    }
    if (!attention_grad_) return;
    const Panels<Real> t(shared(k), d_, b_);
    for (int64_t q = 0; q < examples.count(); ++q)
      (p > 0 ? panel_product<Real, true> : panel_product<Real, false>)(rows, examples.width(q), width,
                                                                       {panel.data, P, 1}, t.panel(q) + p * P * P,
                                                                       examples.panel(q));
  }

  const MixJob& job_;
  const Draw& draw_;
  int64_t b_, d_;
  bool backward_, values_grad_, attention_grad_;
  int64_t stride_, values_size_, transposed_size_, gradient_columns_;
  Schedule schedule_;
  Buffer<Real> values_;
  PartialGradients<Real> gradients_;
  int64_t first_ = 0;  // location of the wave
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
