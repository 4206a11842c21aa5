// The soft loss: logits (r, n, c) of any head are read, and their gradient is written, row by row.
#pragma once

#include "cpu/loss_tile.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
class GivenLogits {
  static constexpr int64_t P = kPanel<Real>;

 public:
  explicit GivenLogits(const LossJob& job) : job_(job) {}

  int64_t shared_size() const { return 0; }
  int64_t gradient_columns() const { return 0; }
  void allocate(int64_t) {}
  void begin_wave(ParallelFor, int64_t, int64_t) {}

  void read(const LossRows<Real>& at, LossTile<Real>& tile) const {
    for (int64_t p = 0; p < tile.logits.count(); ++p)
      for (int64_t row = 0; row < at.rows; ++row) {
        Real* to = tile.logits.panel(p) + row * P;
        const int64_t width = tile.logits.width(p);
        read_row(job_.operand, at.location, at.first + row, p * P, width, to);
        for (int64_t j = width; j < P; ++j) to[j] = LossTile<Real>::kPadding;
      }
  }

  void add_gradient(const LossRows<Real>& at, const LossTile<Real>& tile, const Panels<Real>&) const {
    const int64_t c = job_.target.c;
    Real* to = static_cast<Real*>(job_.grad_operand) + (at.location * job_.draw.n + at.first) * c;
    for (int64_t row = 0; row < at.rows; ++row)
      for (int64_t p = 0; p < tile.logits.count(); ++p)
        std::copy_n(tile.logits.panel(p) + row * P, tile.logits.width(p), to + row * c + p * P);
  }

  void add_to_examples(const LossRows<Real>&, LossTile<Real>&) const {}

 private:
  const LossJob& job_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
