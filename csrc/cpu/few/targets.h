// What all rows of a call share of the targets: smoothed target = keep * target + uniform for each class.
#pragma once

#include "cpu/few/weights.h"
#include "cpu/operands.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
struct FewTargets {
  FewTargets(const Target& target, const Draw& draw, bool want_examples, ParallelFor run)
      : c(target.c),
        pitch(round_up(c, Simd<Real>::lanes)),
        uniform(Real(target.smoothing / double(c))),
        keep(Real(1 - target.smoothing)),
        want_examples(want_examples),
        probabilities_(target.labels ? 0 : draw.b * pitch, "probabilities") {
    if (target.labels) {
      for (int64_t i = 0; i < draw.b; ++i) {
        const bool labelled = target.labels[i] != target.ignore_index;
        some_unlabelled |= !labelled;
        columns.push_back(uint32_t(labelled ? target.labels[i] : pitch));
      }
      return;
    }
    sums.resize(draw.b);
    parallel(run, draw.b, [&](int64_t i) {
      Real* to = probabilities_.get() + i * pitch;
      read_row(target.probabilities, 0, i, 0, c, to);
      std::fill(to + c, to + pitch, Real(0));
      if (!want_examples) return;
      for (int64_t j = 0; j < c; ++j) sums[i] += to[j];
    });
  }

  bool by_label() const { return !columns.empty(); }
  bool has_label(int64_t example) const { return columns[example] != uint32_t(pitch); }
  const Real* probabilities() const { return probabilities_.get(); }  // (b, pitch)

  int64_t c, pitch;
  Real uniform, keep;
  bool want_examples;  // the loss of every row against its examples' own targets
  bool some_unlabelled = false;
  Vector<uint32_t> columns;  // the class of each example, `pitch` for none; empty for probabilities
  Vector<Real> sums;         // of each example's probabilities

 private:
  Buffer<Real> probabilities_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
