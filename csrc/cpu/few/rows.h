// A vector of rows of c logits against the mixed targets of few examples: their losses and gradients. Rows lie in the
// lanes and classes one after the other, in the nearest cache that c vectors fit: no sum runs over lanes.
//
// The formulas, masks and digits near zero are those of loss_tile.h. May include few/mixtures.h and few/targets.h.
#pragma once

#include "cpu/few/mixtures.h"
#include "cpu/few/targets.h"
#include "cpu/few/transpose.h"
#include "cpu/vector_math.h"

namespace multimix {
namespace MULTIMIX_ISA {

// ln(ones + others), with all digits where others are small.
template <class F>
MULTIMIX_INLINE F log_of_sum(F ones, F others) {
  const F sum = ones + others;
  return log(sum) + (others - (sum - ones)) / sum;
}

template <class Real>
class FewRows {
  using F = typename Simd<Real>::F;
  using Mixtures = FewMixtures<Real>;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

 public:
  explicit FewRows(const FewTargets<Real>& targets)
      : t_(targets),
        memory_(size(targets)),
        x_(memory_.get()),
        y_(x_ + (t_.pitch + 1) * N),
        below_(y_ + (t_.by_label() ? 0 : t_.pitch * N)) {
    std::fill_n(x_, size(targets), Real(0));  // columns beyond c, and the one of no label
  }

  static int64_t size(const FewTargets<Real>& t) { return ((t.by_label() ? 2 : 3) * t.pitch + 1) * N; }

  // The logits of N mixtures from row `row` of a tile on, mixed from scores (b, pitch).
  void mix(const Mixtures& mixtures, int64_t row, const Real* scores) {
    begin();
    mixtures.mix(row, scores, t_.pitch, [&](int64_t j, const F(&x)[N]) { take(j, x); });
  }

  // Given logits (N, pitch).
  void read(const Real* logits) {
    begin();
    for (int64_t j = 0; j < t_.pitch; j += N) {
      F x[N];
      load_transposed(logits + j, t_.pitch, x);
      take(j, x);
    }
  }

  // From logits to exponentials relative to the largest of each row. The losses.
  F measure(const Mixtures& mixtures, int64_t row) {
    top_ = high_ == -kInfinity ? F{} : high_;  // where no class is left
    masked_ = any(low_ == -kInfinity);
    F loss = t_.keep * (t_.by_label() ? read_labels(mixtures, row) : mix_targets(mixtures, row));
    if (t_.uniform != 0 || masked_ || t_.want_examples) {
      keep_distances();
      loss += t_.uniform * share_ * all_;
    }
    exponentiate();
    if (masked_) loss = (low_ == -kInfinity) & (t_.uniform * share_ > 0) ? splat<F>(kInfinity) : loss;
    logarithm_ = log_of_sum(ones_, others_);
    return loss + (mass_ == 0 ? F{} : mass_ * logarithm_);
  }

  // From exponentials to the gradients by the logits, without the factors of the rows.
  void differentiate() {
    const F inverse = Real(1) / (ones_ + others_), factor = mass_ * inverse, constant = t_.uniform * share_;
    // Of the likeliest class: total - target, which lies with the other classes, less target times their probability.
    // The difference of probability and target loses its digits where both are near one.
    const F one = ones_ == 1 ? splat<F>(1) : splat<F>(2);  // the exponential of that class; 2 where there are several
    const F peak = peak_gradient(one) * inverse;
    for (int64_t j = 0; j < t_.c; ++j) {
      const F e = load<F>(x_ + j * N);
      F g = e * factor - constant;
      if (!t_.by_label()) g -= load<F>(y_ + j * N) * t_.keep;
      store(x_ + j * N, e == one ? peak : g);
    }
    for (int64_t t = 0; t < slots_; ++t)
      for (int l = 0; l < N; ++l) x_[at_[t][l]] -= targets_[t][l];
    if (!masked_) return;
    for (int64_t j = 0; j < t_.c; ++j)
      store(x_ + j * N, load<F>(below_ + j * N) == kInfinity ? F{} : load<F>(x_ + j * N));
  }

  // Calls use(j, rows): N columns from j on of the N gradients, rows[l * N] those of row l.
  template <class Use>
  MULTIMIX_INLINE void each_block(const Use& use) const {
    alignas(64) Real rows[N * N];
    for (int64_t j = 0; j < t_.pitch; j += N) {
      transpose_block(x_ + j * N, rows);
      use(j, rows);
    }
  }

  // The loss by the weight of each slot, but for a number that a row's slots share: the gradient times the example's
  // scores, if there are scores (b, pitch), and the loss against the example's own target. What stands for a mask does
  // not count.
  void differentiate_weights(const Mixtures& mixtures, int64_t row, const Real* scores, F* by_weight) const {
    for (int64_t t = 0; t < mixtures.count(); ++t) by_weight[t] = t_.uniform * (all_ + Real(t_.c) * logarithm_);
    if (scores) add_dots(mixtures, row, x_, scores, by_weight, 1);
    if (!t_.by_label()) add_dots(mixtures, row, below_, t_.probabilities(), by_weight, t_.keep);
    for (int64_t t = 0; t < mixtures.count(); ++t) {
      const uint32_t* examples = mixtures.examples(t, row);
      for (int l = 0; l < N; ++l) {
        if (t_.by_label()) {
          if (!t_.has_label(examples[l])) continue;
          const Real below = below_[at_[t][l]];
          by_weight[t][l] += t_.keep * ((below == kInfinity ? Real(0) : below) + logarithm_[l]);
        } else {
          by_weight[t][l] += t_.keep * t_.sums[examples[l]] * logarithm_[l];
        }
      }
    }
  }

 private:
  void begin() { high_ = splat<F>(-kInfinity), low_ = splat<F>(kInfinity); }

  // Columns j ... j + N - 1 of the logits.
  MULTIMIX_INLINE void take(int64_t j, const F (&x)[N]) {
    const int64_t count = t_.c - j;
    F high = high_, low = low_;
#pragma GCC unroll 16
    for (int k = 0; k < N; ++k) {
      if (k >= count) break;
      store(x_ + (j + k) * N, x[k]);
      high = max(high, x[k]);
      low = min(low, x[k]);
    }
    high_ = high, low_ = low;
  }

  MULTIMIX_INLINE void transpose_block(const Real* tile, Real* rows) const {
    F x[N];
    load_transposed(tile, N, x);
#pragma GCC unroll 16
    for (int l = 0; l < N; ++l) store(rows + l * N, x[l]);
  }

  // top - logit of each class, infinite where it is masked; their sum.
  void keep_distances() {
    all_ = F{};
    for (int64_t j = 0; j < t_.c; j += N) {
      F all{};
      for (int64_t k = j; k < std::min<int64_t>(j + N, t_.c); ++k) {
        const F x = load<F>(x_ + k * N), below = top_ - x;
        store(below_ + k * N, below);
        all += x == -kInfinity ? F{} : below;
      }
      all_ += all;
    }
  }

  // Sums of target * (top - logit), a masked class counting where it has a weight.
  F read_labels(const Mixtures& mixtures, int64_t row) {
    F total{}, share{};
    slots_ = mixtures.count();
    for (int64_t t = 0; t < slots_; ++t) {
      const uint32_t* examples = mixtures.examples(t, row);
      alignas(64) Real x[N];
      for (int l = 0; l < N; ++l) {
        at_[t][l] = t_.columns[examples[l]] * N + l;
        x[l] = x_[at_[t][l]];
      }
      F weight = mixtures.weights(t, row);
      if (t_.some_unlabelled)
        for (int l = 0; l < N; ++l)
          if (!t_.has_label(examples[l])) weight[l] = 0;
      store(targets_[t], weight);
      share += weight;
      total += weight == 0 ? F{} : weight * (top_ - load<F>(x));
    }
    share_ = share;
    mass_ = share_ * (t_.keep + t_.uniform * t_.c);
    return total;
  }

  F mix_targets(const Mixtures& mixtures, int64_t row) {
    F total{}, sums{};
    mixtures.mix(row, t_.probabilities(), t_.pitch, [&](int64_t j, const F(&y)[N]) {
      F part{}, sum{};
#pragma GCC unroll 16
      for (int k = 0; k < N; ++k) {
        if (j + k >= t_.c) break;
        store(y_ + (j + k) * N, y[k]);
        part += y[k] == 0 ? F{} : y[k] * (top_ - load<F>(x_ + (j + k) * N));
        sum += y[k];
      }
      total += part, sums += sum;
    });
    share_ = splat<F>(1);
    mass_ = t_.keep * sums + t_.uniform * t_.c;
    return total;
  }

  // Sums of N classes each, added up.
  void exponentiate() {
    ones_ = others_ = F{};
    for (int64_t j = 0; j < t_.c; j += N) {
      F one{}, other{};
      for (int64_t k = j; k < std::min<int64_t>(j + N, t_.c); ++k) {
        const F e = exp_or_zero(load<F>(x_ + k * N) - top_);
        store(x_ + k * N, e);
        one += e == 1 ? splat<F>(1) : F{};
        other += e == 1 ? F{} : e;
      }
      ones_ += one, others_ += other;
    }
    ones_ = ones_ + others_ == 0 ? splat<F>(1) : ones_;
  }

  // Of labels, leaves in targets_ what lies on other classes than the likeliest.
  F peak_gradient(F one) {
    F here{}, elsewhere{};
    for (int64_t t = 0; t < slots_; ++t) {
      alignas(64) Real e[N];
      for (int l = 0; l < N; ++l) e[l] = x_[at_[t][l]];
      const F weight = load<F>(targets_[t]);
      const auto is_here = load<F>(e) == one;
      here += is_here ? weight : F{};
      elsewhere += is_here ? F{} : weight;
      store(targets_[t], is_here ? F{} : weight * t_.keep);
    }
    if (!t_.by_label())
      for (int64_t j = 0; j < t_.c; ++j) {
        const F y = load<F>(y_ + j * N);
        const auto is_here = load<F>(x_ + j * N) == one;
        here += is_here ? y : F{};
        elsewhere += is_here ? F{} : y;
      }
    const F target = t_.keep * here + t_.uniform * share_;
    return t_.keep * elsewhere + t_.uniform * share_ * Real(t_.c - 1) - target * others_;
  }

  // by_weight[t] += factor * (the tile's row times that of `values` for the example in slot t), for each row.
  void add_dots(const Mixtures& mixtures, int64_t row, const Real* tile, const Real* values, F* by_weight,
                Real factor) const {
    constexpr Real kLargest = std::numeric_limits<Real>::max();
    alignas(64) Real rows[N * N], dots[kFewMost][N * N];
    for (int64_t t = 0; t < mixtures.count(); ++t) std::fill_n(dots[t], N * N, Real(0));
    for (int64_t j = 0; j < t_.pitch; j += N) {
      transpose_block(tile + j * N, rows);
      for (int64_t t = 0; t < mixtures.count(); ++t) {
        const uint32_t* examples = mixtures.examples(t, row);
        for (int l = 0; l < N; ++l) {
          const F a = load<F>(rows + l * N), v = load<F>(values + examples[l] * t_.pitch + j);
          const F size = v < 0 ? -v : v;
          const F x = (size <= kLargest) & (a != kInfinity) ? a * v : F{};
          store(dots[t] + l * N, load<F>(dots[t] + l * N) + x);
        }
      }
    }
    for (int64_t t = 0; t < mixtures.count(); ++t) by_weight[t] += factor * sums_of<F>(dots[t]);
  }

  const FewTargets<Real>& t_;
  Buffer<Real> memory_;
  Real* x_;                 // (pitch + 1, N): logits, then exponentials, then gradients
  Real* y_;                 // (pitch, N): mixed targets, if they are probabilities
  Real* below_;             // (pitch, N): top - logit, if it is needed
  F high_, low_, top_;      // of the logits
  F share_, mass_, all_{};  // sums of the weights with a target, of the targets, of top - logit
  F ones_, others_;         // sums of the exponentials that are one, and of the others
  F logarithm_;
  bool masked_ = false;
  int64_t slots_ = 0;  // those below; none for probabilities
  alignas(64) Real targets_[kFewMost][N];
  uint32_t at_[kFewMost][N];  // where the target's class lies in a tile
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
