// The mixtures of a tile of rows as the operators read them: weights in one type, drawn in another; the partial
// gradients that they are scattered to. May include few/weights.h and schedule.h.
#pragma once

#include "cpu/few/weights.h"
#include "cpu/schedule.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real, class DrawReal>
class FewMixtures {
 public:
  FewMixtures(const Draw& draw, int64_t max_rows, bool want_plain)
      : m_(draw.m), sampler_(draw, max_rows), drawn_(draw.m, max_rows, want_plain) {}

  void draw(int64_t location, int64_t first, int64_t rows) { sampler_.draw(location, first, rows, drawn_); }

  // Calls use(example, weight, derivative) for each example of a row that has a weight, or whose weight has a
  // derivative by the attention.
  template <class Use>
  MULTIMIX_INLINE void each(int64_t row, const Use& use) const {
    for (int64_t t = 0; t < m_; ++t) {
      const Real weight = MULTIMIX_ISA::weight<Real>(*drawn_.weight(t, row));
      const Real derivative = drawn_.has_plain() ? Real(*drawn_.derivative(t, row)) : Real(0);
      if (weight != 0 || derivative != 0) use(int64_t(*drawn_.example(t, row)), weight, derivative);
    }
  }

  // g_t less its mean by weight, for the examples that `each` calls: relative to that of the largest weight, so that a
  // row of one example gives exactly zero, which a derivative as large as attention is small does not blow up.
  void centre(int64_t row, Real* g) const {
    Real largest = 0, base = 0, mean = 0;
    int64_t t = 0;
    each(row, [&](int64_t, Real weight, Real) {
      if (weight > largest) largest = weight, base = g[t];
      ++t;
    });
    t = 0;
    each(row, [&](int64_t, Real weight, Real) {
      g[t] -= base;
      mean += weight == 0 ? Real(0) : weight * g[t];
      ++t;
    });
    for (int64_t s = 0; s < t; ++s) g[s] -= mean;
  }

 private:
  int64_t m_;
  FewSampler<DrawReal> sampler_;
  FewTile<DrawReal> drawn_;
};

// For every group of every location of a wave: the gradient of an operand (b, pitch) row by row, and of the attention
// (b). Each group adds in the order of its rows, and the groups are added up in order: the same bits for any number of
// threads. Chains of sums are kept short, as those of equal terms would drift.
template <class Real>
class ScatteredGradients {
  static constexpr int64_t kChain = 64;  // terms that an example's row gets before they join the others, about

 public:
  static int64_t size(int64_t b, int64_t pitch, bool attention) { return 2 * (b * pitch + (attention ? b : 0)); }

  ScatteredGradients(const Schedule& schedule, const Draw& draw, int64_t pitch, bool attention)
      : groups_(schedule.groups),
        b_(draw.b),
        pitch_(pitch),
        size_(size(b_, pitch, attention)),
        chain_(std::max<int64_t>(kChain * b_ / draw.m, 1)),
        memory_(schedule.wave * groups_ * size_, "partial gradients") {}

  // What a group adds to while it works.
  struct Group {
    Real *operand, *attention;
    int64_t rows;  // since the last join
  };

  Group begin(int64_t k, int64_t group) const {
    Real* sums = at(k, group);
    std::fill_n(sums, size_, Real(0));
    return {sums, sums + b_ * pitch_, 0};
  }

  // After some rows, and at the end of the group.
  void join(int64_t k, int64_t group, Group& sums, int64_t rows, bool last) const {
    sums.rows += rows;
    if (sums.rows < chain_ && !last) return;
    sums.rows = 0;
    Real* total = at(k, group) + size_ / 2;
    for (int64_t j = 0; j < size_ / 2; ++j) {
      total[j] += sums.operand[j];
      sums.operand[j] = 0;
    }
  }

  // Row i of the operand's gradient at the wave's k-th location, times the scale.
  void add_up_operand(int64_t k, int64_t i, int64_t columns, Real scale, Real* to) const {
    add_up(at(k, 0) + size_ / 2 + i * pitch_, columns, scale, to);
  }
  void add_up_attention(int64_t k, Real scale, Real* to) const {
    add_up(at(k, 0) + size_ / 2 + b_ * pitch_, b_, scale, to);
  }

 private:
  Real* at(int64_t k, int64_t group) const { return memory_.get() + (k * groups_ + group) * size_; }

  void add_up(const Real* partial, int64_t count, Real scale, Real* to) const {
    std::copy_n(partial, count, to);
    for (int64_t group = 1; group < groups_; ++group)
      for (int64_t j = 0; j < count; ++j) to[j] += partial[group * size_ + j];
    for (int64_t j = 0; j < count; ++j) to[j] *= scale;
  }

  int64_t groups_, b_, pitch_, size_, chain_;
  Buffer<Real> memory_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
