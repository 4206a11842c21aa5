// The loop of both losses over waves of locations, groups of rows and tiles: draw weights, read or mix logits, loss and
// gradient of each row, gradients added up in order. What differs is where logits come from: mixed.h or soft.h.
//
// Per row: b gammas, c exponentials, and what the logits cost. Memory: that of a wave of locations; nothing that grows
// with n. Products see gradients without the factor that all rows share, 1/n say: it multiplies the sums.
#pragma once

#include "cpu/loss_tile.h"
#include "cpu/sums.h"
#include "cpu/tile_weights.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real, class DrawReal, template <class> class Logits>
class CrossEntropy {
 public:
  CrossEntropy(const LossJob& job, ParallelFor run)
      : job_(job),
        draw_(job.draw),
        operand_grad_(job.grad_operand != nullptr),
        attention_grad_(job.grad_attention != nullptr),
        targets_(job.target, draw_, attention_grad_, run),
        logits_(job),
        stride_(Sampler<Real>::stride(draw_.b)),
        schedule_(load()),
        gradients_(schedule_, draw_.b, logits_.gradient_columns(), attention_grad_),
        totals_(draw_.r * schedule_.groups) {
    logits_.allocate(schedule_.wave);
    const Real scale = Real(job.scale);
    for (int64_t first = 0; first < draw_.r; first += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first);
      logits_.begin_wave(run, first, count);
      schedule_.for_each_group(run, count, [&](int64_t k, int64_t group) { work(first + k, k, group); });
      logits_.end_wave(run, gradients_, first, count, scale);
      if (attention_grad_)
        parallel(run, count, [&](int64_t k) {
          gradients_.add_up_attention(k, scale, static_cast<Real*>(job_.grad_attention) + (first + k) * draw_.b);
        });
    }
    if (!job_.total) return;
    *job_.total = 0;
    for (const double part : totals_) *job_.total += part;
  }

 private:
  Load load() const {
    const int64_t size = sizeof(Real);
    Load x{draw_.n, draw_.r};
    x.row_bytes = LossTile<Real>::row_bytes(targets_, attention_grad_) + stride_ * size * (attention_grad_ ? 2 : 1);
    x.task_bytes = logits_.scratch_size() * size;
    x.shared_bytes = logits_.shared_size() * size;
    x.group_bytes = PartialGradients<Real>::size(draw_.b, logits_.gradient_columns(), attention_grad_) * size;
    x.most_groups = logits_.most_groups();
    const double products = logits_.products() * (1 + operand_grad_ + attention_grad_);
    x.row_ns = size / 4 * (draw_.m * kGammaNs + targets_.c * (kLogitNs + products * draw_.b * kProductNs));
    return x;
  }

  // All rows of one group of a location, the wave's k-th.
  void work(int64_t location, int64_t k, int64_t group) {
    const int64_t begin = group * schedule_.rows, end = std::min(begin + schedule_.rows, draw_.n);
    const int64_t most = std::min(schedule_.tile, end - begin);  // rows of a tile
    const int64_t size = round_up(most, kRows) * stride_ + Sampler<Real>::padding() + kRows;
    Buffer<Real> memory(size * (attention_grad_ ? 2 : 1)), scratch(logits_.scratch_size());
    Real* mu = memory.get();
    // Products run along the rows beyond: no denormal numbers there.
    std::fill(mu + most * stride_, mu + size, Real(0));
    Real* plain = attention_grad_ ? mu + size : nullptr;
    TileSampler<Real, DrawReal> sampler(draw_, most);
    LossTile<Real> tile(targets_, most, attention_grad_);
    if (attention_grad_) gradients_.clear_attention(k, group);
    Vector<Real> factors(most, Real(1));  // of the rows' gradients, beside the scale
    const Real inverse_scale = Real(1 / job_.scale);
    const bool want_gradient = operand_grad_ || attention_grad_;
    double total = 0;
    for (int64_t first = begin; first < end; first += schedule_.tile) {
      LossRows<Real> at;
      at.location = location, at.k = k;
      at.first = first, at.rows = std::min(most, end - first);
      at.mu = mu, at.stride = stride_;
      at.is_first = first == begin;
      sampler.draw(location, first, at.rows, mu, plain);
      logits_.read(at, scratch.get(), tile);
      tile.mix_targets(at.rows, mu, stride_);
      if (job_.grad_rows.data) {
        read_row(job_.grad_rows, 0, location, first, at.rows, factors.data());
        for (int64_t row = 0; row < at.rows; ++row) factors[row] *= inverse_scale;
      }
      for (int64_t row = 0; row < at.rows; ++row) {
        const Real loss = tile.row(row, mu + row * stride_, factors[row], want_gradient);
        total += loss;
        if (job_.rows) static_cast<Real*>(job_.rows)[location * draw_.n + first + row] = loss;
      }
      if (operand_grad_) logits_.add_gradient(at, scratch.get(), tile, gradients_.operand(k, group));
      if (!attention_grad_) continue;
      logits_.add_to_examples(at, scratch.get(), tile);
      add_centred(at.rows, draw_.b, mu, plain, stride_, tile.examples, gradients_.attention(k, group));
    }
    totals_[location * schedule_.groups + group] = total;
  }

  const LossJob& job_;
  const Draw& draw_;
  bool operand_grad_, attention_grad_;
  Targets<Real> targets_;
  Logits<Real> logits_;
  int64_t stride_;
  Schedule schedule_;
  PartialGradients<Real> gradients_;
  Vector<double> totals_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
