// The targets of a loss, as all tiles of a call share them: smoothed target = keep * target + uniform for each class.
#pragma once

#include "cpu/operands.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
struct Targets {
  using Lane = std::remove_reference_t<decltype(typename Simd<Real>::I{}[0])>;

  // want_examples: also for the loss against every example's own target.
  Targets(const Target& target, const Draw& draw, bool want_examples, ParallelFor run)
      : c(target.c), b(draw.b), uniform(Real(target.smoothing / target.c)), keep(Real(1 - target.smoothing)) {
    if (target.labels) {
      lanes.assign(round_up(b, Simd<Real>::lanes), Lane(-1));
      for (int64_t i = 0; i < b; ++i)
        if (target.labels[i] != target.ignore_index) {
          labelled.push_back(i);
          labels.push_back(target.labels[i]);
          lanes[i] = Lane(target.labels[i]);
        }
      return;
    }
    typename MixOperand<Real>::Layout layout;
    layout.transposed = want_examples;
    probabilities = MixOperand<Real>(target.probabilities, b, c, draw.keep, layout);
    probabilities.allocate(1);
    probabilities.begin_wave(run, 0, 1);
    if (!want_examples) return;
    sums.resize(b);
    Vector<Real> row(c);
    for (int64_t i = 0; i < b; ++i) {
      read_row(target.probabilities, 0, i, 0, c, row.data());
      for (const Real y : row) sums[i] += y;
    }
  }

  bool by_label() const { return !lanes.empty(); }

  int64_t c, b;
  Real uniform, keep;
  Vector<int64_t> labelled, labels;  // the examples that have a label, and those labels
  Vector<Lane> lanes;                // every example's label, -1 for none; empty for probabilities
  MixOperand<Real> probabilities;    // (b, c)
  Vector<Real> sums;                 // of each example's probabilities
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
