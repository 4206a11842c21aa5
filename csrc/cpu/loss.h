// The loop of both losses over waves of locations, groups of rows and tiles: draw weights, read or mix logits, loss and
// gradient of each row, gradients added up in order. What differs is an operand, of mixed.h or soft.h.
//
// Per row: b gammas, c exponentials, and what the operand costs. Memory: that of a wave of locations; nothing that
// grows with n.
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
        targets_(job.target, draw_.b, attention_grad_),
        logits_(job),
        stride_(Sampler<Real>::stride(draw_.b)),
        schedule_(draw_.n, draw_.r,
                  LossTile<Real>::row_bytes(targets_, attention_grad_) +
                      stride_ * int64_t(sizeof(Real)) * (attention_grad_ ? 2 : 1),
                  logits_.shared_size() * sizeof(Real),
                  PartialGradients<Real>::size(draw_.b, logits_.gradient_columns(), attention_grad_) * sizeof(Real)),
        gradients_(schedule_, draw_.b, logits_.gradient_columns(), attention_grad_),
        totals_(draw_.r * schedule_.groups) {
    logits_.allocate(schedule_.wave);
    const int64_t b = draw_.b, c = logits_.gradient_columns();
    for (int64_t first = 0; first < draw_.r; first += schedule_.wave) {
      const int64_t count = std::min(schedule_.wave, draw_.r - first);
      logits_.begin_wave(run, first, count);
      parallel(run, count * schedule_.groups,
               [&](int64_t k) { work(first + k / schedule_.groups, k / schedule_.groups, k % schedule_.groups); });
      if (c)
        parallel(run, count * b, [&](int64_t k) {
          gradients_.add_up_operand(k / b, k % b, static_cast<Real*>(job_.grad_operand) + (first * b + k) * c);
        });
      if (attention_grad_)
        parallel(run, count, [&](int64_t k) {
          gradients_.add_up_attention(k, static_cast<Real*>(job_.grad_attention) + (first + k) * b);
        });
    }
    if (!job_.total) return;
    *job_.total = 0;
    for (const double part : totals_) *job_.total += part;
  }

 private:
  // All rows of one group of a location, the wave's k-th.
  void work(int64_t location, int64_t k, int64_t group) {
    const int64_t begin = group * schedule_.rows, end = std::min(begin + schedule_.rows, draw_.n);
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
    for (int64_t first = begin; first < end; first += schedule_.tile) {
      LossRows<Real> at;
      at.location = location, at.k = k;
      at.first = first, at.rows = std::min(schedule_.tile, end - first);
      at.mu = mu, at.stride = stride_;
      at.is_first = first == begin;
      sampler.draw(location, first, at.rows, mu, plain);
      logits_.read(at, tile);
      tile.mix_targets(at.rows, mu, stride_);
      if (job_.grad_rows.data) read_row(job_.grad_rows, 0, location, first, at.rows, row_gradients.data());
      for (int64_t row = 0; row < at.rows; ++row) {
        const Real loss = tile.row(row, mu + row * stride_, row_gradients[row], want_gradient);
        total += loss;
        if (job_.rows) static_cast<Real*>(job_.rows)[location * draw_.n + first + row] = loss;
      }
      if (operand_grad_) logits_.add_gradient(at, tile, gradients_.operand(k, group));
      if (!attention_grad_) continue;
      logits_.add_to_examples(at, tile);
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
