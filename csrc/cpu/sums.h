// The gradients of each group of rows, added up in the groups' order when all are done.
#pragma once

#include "cpu/schedule.h"

namespace multimix {
namespace MULTIMIX_ISA {

// For every group of every location of a wave: the gradient of an operand (b, columns) in panels, and of the attention
// (b).
template <class Real>
class PartialGradients {
 public:
  // Elements of one group; columns is 0 if the operand's gradient is not wanted.
  static int64_t size(int64_t b, int64_t columns, bool attention) {
    return (columns ? Panels<Real>::size(b, columns) : 0) + (attention ? b : 0);
  }

  PartialGradients(const Schedule& schedule, int64_t b, int64_t columns, bool attention)
      : groups_(schedule.groups),
        b_(b),
        columns_(columns),
        size_(size(b, columns, attention)),
        memory_(schedule.wave * groups_ * size_) {}

  Panels<Real> operand(int64_t k, int64_t group) const { return {at(k, group), b_, columns_}; }
  Real* attention(int64_t k, int64_t group) const { return at(k, group) + size_ - b_; }
  void clear_attention(int64_t k, int64_t group) const { std::fill_n(attention(k, group), b_, Real(0)); }

  // Row i of the operand's gradient at the wave's k-th location.
  void add_up_operand(int64_t k, int64_t i, Real* to) const {
    const Panels<Real> first = operand(k, 0);
    for (int64_t p = 0; p < first.count(); ++p)
      add_up(first.panel(p) + i * kPanel<Real>, first.width(p), to + p * kPanel<Real>);
  }

  void add_up_attention(int64_t k, Real* to) const { add_up(attention(k, 0), b_, to); }

 private:
  Real* at(int64_t k, int64_t group) const { return memory_.get() + (k * groups_ + group) * size_; }

  void add_up(const Real* partial, int64_t count, Real* to) const {
    std::copy_n(partial, count, to);
    for (int64_t group = 1; group < groups_; ++group)
      for (int64_t j = 0; j < count; ++j) to[j] += partial[group * size_ + j];
  }

  int64_t groups_, b_, columns_, size_;
  Buffer<Real> memory_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
