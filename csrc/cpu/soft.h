// The soft loss: logits (r, n, c) of any head are read, and their gradient is written, row by row.
#pragma once

#include "cpu/loss_tile.h"
#include "cpu/sums.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
class GivenLogits {
  static constexpr int64_t P = kPanel<Real>;

 public:
  explicit GivenLogits(const LossJob& job) : job_(job) {}

  int64_t shared_size() const { return 0; }
  int64_t scratch_size() const { return 0; }
  int64_t gradient_columns() const { return 0; }
  int64_t most_groups() const { return kMaxTasks; }
  double products() const { return 0; }
  void allocate(int64_t) {}
  void begin_wave(ParallelFor, int64_t, int64_t) {}
  void end_wave(ParallelFor, const PartialGradients<Real>&, int64_t, int64_t, Real) const {}

  void read(const LossRows<Real>& at, Real*, LossTile<Real>& tile) const {
    for (int64_t p = 0; p < tile.logits.count(); ++p)
      for (int64_t row = 0; row < at.rows; ++row)
        read_row(job_.operand, at.location, at.first + row, p * P, tile.logits.width(p),
                 tile.logits.panel(p) + row * P);
  }

  void add_gradient(const LossRows<Real>& at, Real*, const LossTile<Real>& tile, const Panels<Real>&) const {
    const int64_t c = job_.target.c;
    const Real scale = Real(job_.scale);
    Real* to = static_cast<Real*>(job_.grad_operand) + (at.location * job_.draw.n + at.first) * c;
    for (int64_t row = 0; row < at.rows; ++row)
      for (int64_t p = 0; p < tile.logits.count(); ++p) {
        const Real* from = tile.logits.panel(p) + row * P;
        for (int64_t j = 0; j < tile.logits.width(p); ++j) to[row * c + p * P + j] = from[j] * scale;
      }
  }

  void add_to_examples(const LossRows<Real>&, Real*, LossTile<Real>&) const {}

 private:
  const LossJob& job_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
