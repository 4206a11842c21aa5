// One row of c logits against the mixed target of few examples: its loss and gradient, in the first-level cache.
//
// The formulas, masks and digits near zero are those of loss_tile.h. May include few/weights.h and operands.h.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/few/weights.h"
#include "cpu/operands.h"
#include "cpu/vector_math.h"

namespace multimix {
namespace MULTIMIX_ISA {

// What all rows of a call share of the targets: smoothed target = keep * target + uniform for each class.
template <class Real>
struct FewTargets {
  FewTargets(const Target& target, const Draw& draw, bool want_examples, ParallelFor run)
      : c(target.c),
        pitch(round_up(c, Simd<Real>::lanes)),
        uniform(Real(target.smoothing / double(c))),
        keep(Real(1 - target.smoothing)),
        labels(target.labels),
        ignore_index(target.ignore_index),
        want_examples(want_examples),
        probabilities_(labels ? 0 : draw.b * pitch, "probabilities") {
    if (labels) return;
    parallel(run, draw.b, [&](int64_t i) {
      Real* to = probabilities_.get() + i * pitch;
      read_row(target.probabilities, 0, i, 0, c, to);
      std::fill(to + c, to + pitch, Real(0));
    });
  }

  bool by_label() const { return labels != nullptr; }
  bool has_label(int64_t example) const { return labels[example] != ignore_index; }
  const Real* probabilities(int64_t example) const { return probabilities_.get() + example * pitch; }

  int64_t c, pitch;
  Real uniform, keep;
  const int64_t* labels;  // (b), or null
  int64_t ignore_index;
  bool want_examples;  // the loss of every row against its examples' own targets

 private:
  Buffer<Real> probabilities_;  // (b, pitch)
};

// A number to take from all of an example's scores, see operands.h.
template <class Real>
Real common_offset(const Real* scores, int64_t c) {
  constexpr Real kInRange = std::numeric_limits<Real>::max() / 2;
  Real low = kInRange, high = -kInRange;
  for (int64_t j = 0; j < c; ++j)
    if (std::abs(scores[j]) <= kInRange) low = std::min(low, scores[j]), high = std::max(high, scores[j]);
  const Real middle = low / 2 + high / 2;
  return low <= high && std::abs(middle) > high - low ? middle : Real(0);
}

// ln(ones + others), with all digits where others are small.
template <class F>
MULTIMIX_INLINE F log_of_sum(F ones, F others) {
  const F sum = ones + others;
  return log(sum) + (others - (sum - ones)) / sum;
}

template <class Real>
class FewRow {
  using F = typename Simd<Real>::F;
  using I = typename Simd<Real>::I;
  using Lane = std::remove_reference_t<decltype(I{}[0])>;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

 public:
  explicit FewRow(const FewTargets<Real>& targets)
      : t_(targets),
        memory_(size(targets)),
        x(memory_.get()),
        below_(x + t_.pitch),
        inside_(iota<I>() < Lane(t_.c - (t_.pitch - N))) {}

  static int64_t size(const FewTargets<Real>& t) { return 2 * t.pitch; }

  // From logits x to exponentials relative to the largest. The loss, but for mass * ln(ones + others).
  template <class Mixtures>
  Real measure(const Mixtures& mixtures, int64_t i) {
    // Padding is -inf like a masked class.
    const F last = load<F>(x + t_.pitch - N);
    F high = last, low = inside_ ? last : splat<F>(kInfinity);
    for (int64_t j = 0; j < t_.pitch - N; j += N) {
      const F v = load<F>(x + j);
      high = max(high, v);
      low = min(low, v);
    }
    top_ = maximum(high);
    masked_ = any(low == -kInfinity);
    if (top_ == -kInfinity) top_ = 0;  // no class is left
    Real loss = t_.keep * (t_.by_label() ? read_labels(mixtures, i) : mix_targets(mixtures, i));
    all_ = 0;
    if (t_.uniform != 0 || masked_ || t_.want_examples) keep_distances();
    loss += t_.uniform * share_ * all_;
    F one{}, other{};
    for (int64_t j = 0; j < t_.pitch; j += N) {
      const F e = exp_or_zero(load<F>(x + j) - top_);
      store(x + j, e);
      one += e == 1 ? splat<F>(1) : F{};
      other += e == 1 ? F{} : e;
    }
    ones = sum(one), others = sum(other);
    if (ones + others == 0) ones = 1;
    return masked_ && t_.uniform * share_ > 0 ? kInfinity : loss;
  }

  // From exponentials to the gradient by the logits, without the factor of the row.
  template <class Mixtures>
  void differentiate(const Mixtures& mixtures, int64_t i) {
    const Real inverse = 1 / (ones + others), factor = mass * inverse, constant = t_.uniform * share_;
    // Of the likeliest class: total - target, which lies with the other classes, less target times their probability.
    // The difference of probability and target loses its digits where both are near one.
    const bool has_peak = ones == 1;
    const F peak = splat<F>(has_peak ? peak_gradient(mixtures, i) * inverse : Real(0));
    if (t_.by_label()) {
      Real targets[kFewMost];
      int64_t t = 0;
      mixtures.each(i, [&](int64_t example, Real weight, Real) {
        const bool counts = t_.has_label(example) && !(has_peak && x[t_.labels[example]] == 1);
        targets[t++] = counts ? t_.keep * weight : Real(0);
      });
      for (int64_t j = 0; j < t_.pitch; j += N) {
        const F e = load<F>(x + j), g = e * factor - constant;
        store(x + j, has_peak ? (e == 1 ? peak : g) : g);
      }
      t = 0;
      mixtures.each(i, [&](int64_t example, Real, Real) {
        if (t_.has_label(example)) x[t_.labels[example]] -= targets[t];
        ++t;
      });
    } else {
      for (int64_t j = 0; j < t_.pitch; j += N) {
        const F e = load<F>(x + j), g = e * factor - constant - mixed_target(mixtures, i, j) * t_.keep;
        store(x + j, has_peak ? (e == 1 ? peak : g) : g);
      }
    }
    if (!masked_) return;
    for (int64_t j = 0; j < t_.pitch; j += N) store(x + j, load<F>(below_ + j) == kInfinity ? F{} : load<F>(x + j));
  }

  // The gradient times an example's scores; what stands for a mask does not count.
  Real dot(const Real* scores) const {
    constexpr Real kLargest = std::numeric_limits<Real>::max();
    F total{};
    for (int64_t j = 0; j < t_.pitch; j += N) {
      const F s = load<F>(scores + j), size = s < 0 ? -s : s;
      total += size <= kLargest ? s * load<F>(x + j) : F{};
    }
    return sum(total);
  }

  // The row's loss against one example's own target; masked classes count nothing, see loss_tile.h.
  Real loss_against(int64_t example, Real logarithm) const {
    const Real on_all = t_.uniform * (all_ + t_.c * logarithm);
    if (t_.by_label()) {
      if (!t_.has_label(example)) return 0;
      const Real below = below_[t_.labels[example]];
      return t_.keep * ((below == kInfinity ? Real(0) : below) + logarithm) + on_all;
    }
    const Real* y = t_.probabilities(example);
    F on_target{}, total{};
    for (int64_t j = 0; j < t_.pitch; j += N) {
      const F below = load<F>(below_ + j), p = load<F>(y + j);
      on_target += below == kInfinity ? F{} : p * below;
      total += p;
    }
    return t_.keep * (sum(on_target) + sum(total) * logarithm) + on_all;
  }

 private:
  const FewTargets<Real>& t_;
  Buffer<Real> memory_;

 public:
  Real* x;            // (pitch): logits, then exponentials, then the gradient
  Real ones, others;  // sums of the exponentials that are one, and of the others
  Real mass;          // the sum of the target

 private:
  // top - logit of each class, infinite where it is masked; their sum.
  void keep_distances() {
    F total{};
    for (int64_t j = 0; j < t_.pitch; j += N) {
      const F v = load<F>(x + j), below = top_ - v;
      store(below_ + j, below);
      total += v == -kInfinity ? F{} : below;
    }
    all_ = sum(total);
  }

  // Sums of target * (top - logit), a masked class counting where it has a weight.
  template <class Mixtures>
  Real read_labels(const Mixtures& mixtures, int64_t i) {
    Real total = 0;
    share_ = 0;
    mixtures.each(i, [&](int64_t example, Real weight, Real) {
      if (weight == 0 || !t_.has_label(example)) return;
      share_ += weight;
      total += weight * (top_ - x[t_.labels[example]]);
    });
    mass = share_ * (t_.keep + t_.uniform * t_.c);
    return total;
  }

  template <class Mixtures>
  Real mix_targets(const Mixtures& mixtures, int64_t i) {
    F total{}, sums{};
    for (int64_t j = 0; j < t_.pitch; j += N) {
      const F y = mixed_target(mixtures, i, j);
      total += y == 0 ? F{} : y * (top_ - load<F>(x + j));
      sums += y;
    }
    share_ = 1;
    mass = t_.keep * sum(sums) + t_.uniform * t_.c;
    return sum(total);
  }

  template <class Mixtures>
  MULTIMIX_INLINE F mixed_target(const Mixtures& mixtures, int64_t i, int64_t j) const {
    F y{};
    mixtures.each(i, [&](int64_t example, Real weight, Real) {
      if (weight != 0) y += load<F>(t_.probabilities(example) + j) * weight;
    });
    return y;
  }

  template <class Mixtures>
  Real peak_gradient(const Mixtures& mixtures, int64_t i) const {
    Real here = 0, elsewhere = 0;
    if (t_.by_label()) {
      mixtures.each(i, [&](int64_t example, Real weight, Real) {
        if (t_.has_label(example)) (x[t_.labels[example]] == 1 ? here : elsewhere) += weight;
      });
    } else {
      F on{}, off{};
      for (int64_t j = 0; j < t_.pitch; j += N) {
        const F y = mixed_target(mixtures, i, j), e = load<F>(x + j);
        on += e == 1 ? y : F{};
        off += e == 1 ? F{} : y;
      }
      here = sum(on), elsewhere = sum(off);
    }
    const Real target = t_.keep * here + t_.uniform * share_;
    return t_.keep * elsewhere + t_.uniform * share_ * Real(t_.c - 1) - target * others;
  }

  Real* below_;  // (pitch): top - logit, if it is needed
  I inside_;     // the lanes of the last vector that are classes
  Real top_, share_, all_;
  bool masked_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
