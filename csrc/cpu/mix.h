// Mixed embeddings mu @ values, and their gradients. 2 b d flops for each row and direction; the weights are drawn
// again in the backward pass.
#pragma once

#include "cpu/operands.h"
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
        values_(job.values, b_, d_, draw_.keep, layout()),
        gradient_columns_(values_grad_ ? d_ : 0),
        schedule_(load()),
        gradients_(schedule_, b_, gradient_columns_, attention_grad_) {
    values_.allocate(schedule_.wave);
    for (int64_t first = 0; first < draw_.r; first += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first);
      values_.begin_wave(run, first, count);
      schedule_.for_each_group(run, count, [&](int64_t k, int64_t group) { work(first + k, k, group); });
      if (gradient_columns_)
        parallel(run, count * b_, [&](int64_t k) {
          gradients_.add_up_operand(k / b_, k % b_, 1, static_cast<Real*>(job_.grad_values) + (first * b_ + k) * d_);
        });
      if (attention_grad_)
        parallel(run, count, [&](int64_t k) {
          gradients_.add_up_attention(k, 1, static_cast<Real*>(job_.grad_attention) + (first + k) * b_);
        });
    }
  }

 private:
  typename MixOperand<Real>::Layout layout() const {
    typename MixOperand<Real>::Layout result;
    result.plain = !backward_;
    result.transposed = attention_grad_;
    return result;
  }

  Load load() const {
    const int64_t size = sizeof(Real);
    Load x{draw_.n, draw_.r};
    x.row_bytes = (stride_ * (attention_grad_ ? 2 : 1) + P + (attention_grad_ ? b_ + P : 0)) * size;
    x.task_bytes = values_.scratch_size() * size;
    x.shared_bytes = values_.shared_size() * size;
    x.group_bytes = PartialGradients<Real>::size(b_, gradient_columns_, attention_grad_) * size;
    const double products = backward_ ? values_grad_ + attention_grad_ : 1;
    x.row_ns = size / 4 * (draw_.m * kGammaNs + products * b_ * d_ * kProductNs);
    return x;
  }

  void work(int64_t location, int64_t k, int64_t group) {
    const int64_t begin = group * schedule_.rows, end = std::min(begin + schedule_.rows, draw_.n);
    const int64_t tile = round_up(schedule_.tile, kRows);
    const int64_t size = tile * stride_ + Sampler<Real>::padding() + kRows;
    const int64_t examples_size = attention_grad_ ? Panels<Real>::size(tile, b_) : 0;
    Buffer<Real> memory(tile * P + size * (attention_grad_ ? 2 : 1) + examples_size), scratch(values_.scratch_size());
    Real* mu = memory.get() + tile * P;
    // Products run along the rows beyond: no denormal numbers there.
    std::fill(memory.get(), mu, Real(0));
    std::fill(mu + std::min(schedule_.tile, end - begin) * stride_, mu + size, Real(0));
    Real* plain = attention_grad_ ? mu + size : nullptr;
    Panels<Real> panel(memory.get(), tile, P), examples(mu + size * 2, tile, b_);
    TileSampler<Real, DrawReal> sampler(draw_, schedule_.tile);
    if (attention_grad_) gradients_.clear_attention(k, group);
    for (int64_t at = begin; at < end; at += schedule_.tile) {
      const int64_t rows = std::min(schedule_.tile, end - at);
      sampler.draw(location, at, rows, mu, plain);
      for (int64_t p = 0; p < Panels<Real>::count(d_); ++p) {
        if (!backward_) {
          values_.multiply(k, p, rows, mu, stride_, scratch.get(), panel.data);
          write(location, at, rows, p, panel);
          continue;
        }
        read_gradient(location, at, rows, p, panel);
        if (values_grad_) add_values_gradient(k, group, rows, p, mu, panel, at > begin);
        if (attention_grad_) values_.multiply_transposed(k, p, rows, panel.data, scratch.get(), examples, p > 0);
      }
      if (attention_grad_) add_centred(rows, b_, mu, plain, stride_, examples, gradients_.attention(k, group));
    }
  }

  int64_t width(int64_t p) const { return std::min(P, d_ - p * P); }

  void write(int64_t location, int64_t at, int64_t rows, int64_t p, const Panels<Real>& panel) const {
    for (int64_t row = 0; row < rows; ++row)
      write_row(job_.mixed, job_.values.dtype, (location * draw_.n + at + row) * d_ + p * P, width(p),
                panel.data + row * P);
  }

  void read_gradient(int64_t location, int64_t at, int64_t rows, int64_t p, const Panels<Real>& panel) const {
    for (int64_t row = 0; row < rows; ++row)
      read_row(job_.grad, location, at + row, p * P, width(p), panel.data + row * P);
  }

  void add_values_gradient(int64_t k, int64_t group, int64_t rows, int64_t p, const Real* mu, const Panels<Real>& panel,
                           bool accumulate) const {
    const auto product = accumulate ? panel_product<Real, true> : panel_product<Real, false>;
    product(b_, width(p), rows, {mu, 1, stride_}, panel.data, gradients_.operand(k, group).panel(p));
  }

  const MixJob& job_;
  const Draw& draw_;
  int64_t b_, d_;
  bool backward_, values_grad_, attention_grad_;
  int64_t stride_;
  MixOperand<Real> values_;
  int64_t gradient_columns_;
  Schedule schedule_;
  PartialGradients<Real> gradients_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
