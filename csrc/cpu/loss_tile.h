// Cross-entropy of a tile of rows against their mixed targets, and its gradient with respect to their logits.
//
// loss = sum of target * (log sum exp - logit): terms that are not negative, each relative to the row's largest logit,
// so that neither a common offset nor a loss near zero cancels digits. A class with logit -inf has probability zero and
// no gradient; it costs nothing without a target, and infinity with one.
// Per row of c logits: a maximum, c exponentials, a scaling, and two gathers over the b labels; no mixed target is
// written out for labels. Cost for each logit: 3 passes over the second-level cache, 1 exponential.
#pragma once

#include "cpu/targets.h"
#include "cpu/vector_math.h"

namespace multimix {
namespace MULTIMIX_ISA {

// The rows of a tile: [first, first + rows) of a location, the wave's k-th, and their weights mu (rows, b).
template <class Real>
struct LossRows {
  int64_t location, k, first, rows;
  const Real* mu;
  int64_t stride;
  bool is_first;  // the first tile of its group
};

template <class Real>
class LossTile {
  using F = typename Simd<Real>::F;
  using I = typename Simd<Real>::I;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr int64_t P = kPanel<Real>;
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

 public:
  // want_examples: also the loss of every row against every example's own target, for the gradient of the weights.
  LossTile(const Targets<Real>& targets, int64_t max_rows, bool want_examples)
      : t_(targets),
        matrices_(matrices(targets, want_examples)),
        memory_(Panels<Real>::size(max_rows, t_.c) * matrices_, "logits of a tile"),
        scratch_(t_.probabilities.scratch_size()),
        logits(memory_.get(), max_rows, t_.c),
        offsets_(t_.labels.size()),
        last_((t_.c - 1) / N * N),
        inside_(iota<I>() < typename Targets<Real>::Lane(t_.c - last_)) {
    const int64_t size = Panels<Real>::size(max_rows, t_.c);
    if (matrices_ > 1) mixed_ = Panels<Real>(memory_.get() + size, max_rows, t_.c);
    if (matrices_ > 2) {
      below_ = Panels<Real>(memory_.get() + 2 * size, max_rows, t_.c);
      std::fill_n(below_.data, size, Real(0));  // rows beyond are multiplied along
    }
    for (size_t k = 0; k < offsets_.size(); ++k) offsets_[k] = logits.at(0, t_.labels[k]) - logits.data;
    if (!want_examples) return;
    const int64_t examples_size = Panels<Real>::size(max_rows, t_.b);
    examples_memory_ = Buffer<Real>(examples_size);
    std::fill_n(examples_memory_.get(), examples_size, Real(0));  // rows beyond are added along
    examples = Panels<Real>(examples_memory_.get(), max_rows, t_.b);
  }

  static int64_t row_bytes(const Targets<Real>& t, bool want_examples) {
    const int64_t c = Panels<Real>::count(t.c) * P, b = Panels<Real>::count(t.b) * P;
    return int64_t(sizeof(Real)) * (c * matrices(t, want_examples) + (want_examples ? b : 0));
  }

  // Mixes the probabilities of the tile's rows, once their logits are there.
  void mix_targets(int64_t rows, const Real* mu, int64_t stride) {
    if (t_.by_label()) return;
    for (int64_t p = 0; p < mixed_.count(); ++p)
      t_.probabilities.multiply(0, p, rows, mu, stride, scratch_.get(), mixed_.panel(p));
    if (!examples.data) return;
    for (int64_t row = 0; row < rows; ++row) store_below(row);
    for (int64_t p = 0; p < below_.count(); ++p)
      t_.probabilities.multiply_transposed(0, p, rows, below_.panel(p), scratch_.get(), examples, p > 0);
  }

  // The loss of one row. Its logits become the gradient, times `scale`, if that is wanted.
  Real row(int64_t row, const Real* mu, Real scale, bool want_gradient) {
    Real low;
    const Real top = range(row, low);
    const bool masked = low == -kInfinity;
    // The labelled weight (one, but for rounding), and sums over the classes: of target * (top - logit), of the target,
    // and of top - logit.
    Real share = 1, below, total;
    if (t_.by_label()) {
      below = gather(row, mu, top, share);
      total = share * (t_.keep + t_.uniform * t_.c);
    } else {
      Real mass;
      below = dot_mixed(row, top, mass);
      total = t_.keep * mass + t_.uniform * t_.c;
    }
    const Real all = t_.uniform != 0 ? sum_below(row, top) : Real(0);
    if (examples.data) store_examples(row, top);
    if (masked) remember_masks(row);
    Real others;  // than the largest
    const Real z = exponentiate(row, top, others);
    const Real log_z = z < 2 ? std::log1p(others) : std::log(z);
    if (examples.data) examples_loss(row, log_z, all, scale);
    if (want_gradient) {
      const int64_t peak = z < 2 ? find_peak(row) : -1;
      scale_row(row, scale * total / z, scale * t_.uniform * share);
      t_.by_label() ? scatter(row, mu, scale * t_.keep) : subtract_mixed(row, scale * t_.keep);
      if (peak >= 0) *logits.at(row, peak) = scale * peak_gradient(row, peak, mu, share, others) / z;
      if (masked) clear_masks(row);
    }
    if (masked && t_.uniform * share > 0) return kInfinity;
    return total * log_z + t_.keep * below + t_.uniform * share * all;
  }

 private:
  static int64_t matrices(const Targets<Real>& t, bool want_examples) {
    return t.by_label() ? 1 : want_examples ? 3 : 2;
  }

  const Targets<Real>& t_;
  int64_t matrices_;
  Buffer<Real> memory_, scratch_;

 public:
  Panels<Real> logits;    // (rows, c)
  Panels<Real> examples;  // (rows, b): scale times the loss against each example's own target

 private:
  // Calls body on each vector of a row, up to a column.
  template <class Body>
  MULTIMIX_INLINE void each_vector(const Panels<Real>& panels, int64_t row, int64_t columns, const Body& body) const {
    for (int64_t p = 0; p * P < columns; ++p) {
      Real* x = panels.panel(p) + row * P;
      const int64_t width = std::min(P, columns - p * P);
      for (int64_t v = 0; v < width; v += N) body(x + v);
    }
  }

  // The largest and smallest logit of a row; 0 for the largest where all are -inf. Padding becomes -inf.
  Real range(int64_t row, Real& least) const {
    F low = splat<F>(kInfinity), top = splat<F>(-kInfinity);
    each_vector(logits, row, last_, [&](const Real* x) {
      const F v = load<F>(x);
      low = min(low, v);
      top = max(top, v);
    });
    Real* x = logits.at(row, last_);
    const F v = load<F>(x), padded = inside_ ? v : splat<F>(-kInfinity);
    store(x, padded);
    least = minimum(min(low, inside_ ? v : splat<F>(kInfinity)));
    const Real most = maximum(max(top, padded));
    return most == -kInfinity ? Real(0) : most;
  }

  Real sum_below(int64_t row, Real top) const {
    F total{};
    each_vector(logits, row, t_.c, [&](const Real* x) {
      const F v = load<F>(x);
      total += v == -kInfinity ? F{} : top - v;
    });
    return sum(total);
  }

  // The sum, and without what equals one: where the sum is below two, that is the largest alone.
  Real exponentiate(int64_t row, Real top, Real& others) const {
    F total{}, rest{};
    each_vector(logits, row, t_.c, [&](Real* x) {
      const F e = exp_or_zero(load<F>(x) - top);
      store(x, e);
      total += e;
      rest += e == 1 ? F{} : e;
    });
    others = sum(rest);
    const Real z = sum(total);
    return z == 0 ? Real(1) : z;  // no class is left
  }

  int64_t find_peak(int64_t row) const {
    for (int64_t p = 0; p < logits.count(); ++p) {
      const Real* x = logits.panel(p) + row * P;
      for (int64_t v = 0; v < logits.width(p); v += N) {
        if (!any(load<F>(x + v) == 1)) continue;
        for (int64_t j = v;; ++j)
          if (x[j] == 1) return p * P + j;
      }
    }
    return -1;
  }

  // Of the likeliest class, times z: total - target, which lies with the other classes, less target times their
  // probability. The difference of probability and target loses its digits where both are near one.
  Real peak_gradient(int64_t row, int64_t peak, const Real* mu, Real share, Real others) const {
    Real here, elsewhere;
    if (t_.by_label()) {
      F on{}, off{};
      const auto label = typename Targets<Real>::Lane(peak);
      for (int64_t i = 0; i < int64_t(t_.lanes.size()); i += N) {
        const I lanes = load<I>(t_.lanes.data() + i);
        const F w = load<F>(mu + i);
        on += lanes == label ? w : F{};
        off += (lanes == label) | (lanes < 0) ? F{} : w;
      }
      here = sum(on), elsewhere = sum(off);
    } else {
      here = *mixed_.at(row, peak);
      *mixed_.at(row, peak) = 0;
      F off{};
      each_vector(mixed_, row, t_.c, [&](const Real* y) { off += load<F>(y); });
      elsewhere = sum(off);
    }
    const Real target = t_.keep * here + t_.uniform * share;
    return t_.keep * elsewhere + t_.uniform * share * (t_.c - 1) - target * others;
  }

  void scale_row(int64_t row, Real factor, Real constant) const {
    each_vector(logits, row, t_.c, [&](Real* x) { store(x, load<F>(x) * factor - constant); });
  }

  Real gather(int64_t row, const Real* mu, Real top, Real& share) const {
    const Real* x = logits.data + row * P;
    const int64_t count = int64_t(offsets_.size());
    Real part[4] = {};
    if (count == t_.b) {
      int64_t k = 0;
      F sums{};
      for (; k + N <= count; k += N) sums += load<F>(mu + k);
      share = sum(sums);
      for (; k < count; ++k) share += mu[k];
      for (k = 0; k + 4 <= count; k += 4)
        for (int u = 0; u < 4; ++u) part[u] += mu[k + u] * (top - x[offsets_[k + u]]);
      for (; k < count; ++k) part[0] += mu[k] * (top - x[offsets_[k]]);
    } else {
      share = 0;
      for (int64_t k = 0; k < count; ++k) {
        const Real w = mu[t_.labelled[k]];
        share += w;
        part[0] += w * (top - x[offsets_[k]]);
      }
    }
    const Real total = (part[0] + part[1]) + (part[2] + part[3]);
    return total < kInfinity ? total : gather_without_zeros(x, mu, top);
  }

  // With labels of masked classes, which count where there is a weight.
  Real gather_without_zeros(const Real* x, const Real* mu, Real top) const {
    Real total = 0;
    for (size_t k = 0; k < offsets_.size(); ++k) {
      const Real w = mu[t_.labelled[k]];
      total += w == 0 ? Real(0) : w * (top - x[offsets_[k]]);
    }
    return total;
  }

  void scatter(int64_t row, const Real* mu, Real factor) const {
    Real* x = logits.data + row * P;
    const int64_t count = int64_t(offsets_.size());
    if (count == t_.b)
      for (int64_t k = 0; k < count; ++k) x[offsets_[k]] -= factor * mu[k];
    else
      for (int64_t k = 0; k < count; ++k) x[offsets_[k]] -= factor * mu[t_.labelled[k]];
  }

  Real dot_mixed(int64_t row, Real top, Real& mass) const {
    F dot{}, total{};
    for (int64_t p = 0; p < mixed_.count(); ++p)
      for (int64_t v = 0; v < mixed_.width(p); v += N) {
        const F y = load<F>(mixed_.panel(p) + row * P + v);
        dot += y == 0 ? F{} : y * (top - load<F>(logits.panel(p) + row * P + v));
        total += y;
      }
    mass = sum(total);
    return sum(dot);
  }

  void subtract_mixed(int64_t row, Real factor) const {
    for (int64_t p = 0; p < mixed_.count(); ++p)
      for (int64_t v = 0; v < mixed_.width(p); v += N) {
        Real* x = logits.panel(p) + row * P + v;
        store(x, load<F>(x) - load<F>(mixed_.panel(p) + row * P + v) * factor);
      }
  }

  void remember_masks(int64_t row) {
    masks_.resize(t_.c);
    for (int64_t j = 0; j < t_.c; ++j) masks_[j] = *logits.at(row, j) == -kInfinity;
  }

  void clear_masks(int64_t row) const {
    for (int64_t j = 0; j < t_.c; ++j)
      if (masks_[j]) *logits.at(row, j) = 0;
  }

  // top - logit, and zero for masked classes: what a mask does to a loss does not depend on the size of a weight.
  void store_below(int64_t row) const {
    Real low;
    const Real top = range(row, low);
    for (int64_t p = 0; p < logits.count(); ++p)
      for (int64_t v = 0; v < logits.width(p); v += N) {
        const F x = load<F>(logits.panel(p) + row * P + v);
        store(below_.panel(p) + row * P + v, x == -kInfinity ? F{} : top - x);
      }
  }

  // For labels, what store_below stores, of each example's class. For probabilities mix_targets has multiplied it out.
  void store_examples(int64_t row, Real top) const {
    if (!t_.by_label()) return;
    each_vector(examples, row, t_.b, [](Real* x) { store(x, F{}); });
    for (size_t k = 0; k < offsets_.size(); ++k) {
      const Real x = logits.data[offsets_[k] + row * P];
      *examples.at(row, t_.labelled[k]) = x == -kInfinity ? Real(0) : top - x;
    }
  }

  void examples_loss(int64_t row, Real log_z, Real all, Real scale) const {
    const auto loss = [&](int64_t i, Real mass) {
      Real& e = *examples.at(row, i);
      e = scale * ((t_.keep * mass + t_.uniform * t_.c) * log_z + t_.keep * e + t_.uniform * all);
    };
    if (t_.by_label())
      for (const int64_t i : t_.labelled) loss(i, 1);
    else
      for (int64_t i = 0; i < t_.b; ++i) loss(i, t_.sums[i]);
  }

  Vector<int64_t> offsets_;  // of each labelled example's class in the logits of row 0
  int64_t last_;             // the first column of the last vector
  I inside_;                 // its lanes that are classes
  Panels<Real> mixed_;       // (rows, c), for probabilities
  Panels<Real> below_;       // (rows, c), for the examples' losses against probabilities
  Vector<uint8_t> masks_;    // of the row's classes
  Buffer<Real> examples_memory_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
