// Cross-entropy of a tile of rows against their mixed targets, and its gradient with respect to their logits.
//
// Per row of c logits: a maximum, c exponentials, a scaling, and two gathers over the b labels; no mixed target is
// written out for labels. Cost for each logit: 3 passes over the second-level cache, 1 exponential.
#pragma once

#include <cmath>
#include <limits>

#include "cpu/elements.h"
#include "cpu/schedule.h"
#include "cpu/vector_math.h"

namespace multimix {
namespace MULTIMIX_ISA {

// What all tiles of a call share of its targets.
template <class Real>
struct Targets {
  Targets(const Target& target, int64_t b, bool transpose)
      : c(target.c), b(b), uniform(Real(target.smoothing / target.c)), keep(Real(1 - target.smoothing)) {
    if (target.labels) {
      for (int64_t i = 0; i < b; ++i)
        if (target.labels[i] != target.ignore_index) {
          labelled.push_back(i);
          labels.push_back(target.labels[i]);
        }
      return;
    }
    memory = Buffer<Real>(Panels<Real>::size(b, c));
    probabilities = Panels<Real>(memory.get(), b, c);
    std::fill(memory.get(), memory.get() + Panels<Real>::size(b, c), Real(0));
    if (transpose) {
      transposed_memory = Buffer<Real>(Panels<Real>::size(c, b));
      transposed = Panels<Real>(transposed_memory.get(), c, b);
      std::fill(transposed.data, transposed.data + Panels<Real>::size(c, b), Real(0));
    }
    sums.resize(b);
    for (int64_t i = 0; i < b; ++i)
      for (int64_t j = 0; j < c; ++j) {
        const Real y = Real(target.probabilities[i * c + j]);
        *probabilities.at(i, j) = y;
        if (transpose) *transposed.at(j, i) = y;
        sums[i] += y;
      }
  }

  bool by_label() const { return probabilities.data == nullptr; }

  int64_t c, b;
  Real uniform, keep;                // smoothed target = keep * target + uniform
  Vector<int64_t> labelled, labels;  // the examples that have a label, and those labels
  Panels<Real> probabilities, transposed;
  Vector<Real> sums;  // of each example's probabilities
  Buffer<Real> memory, transposed_memory;
};

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
  static constexpr int N = Simd<Real>::lanes;
  static constexpr int64_t P = kPanel<Real>;

 public:
  static constexpr Real kPadding = std::numeric_limits<Real>::lowest() / 4;

  // want_examples: also the loss of every row against every example's own target, for the gradient of the weights.
  LossTile(const Targets<Real>& targets, int64_t max_rows, bool want_examples)
      : t_(targets),
        memory_(Panels<Real>::size(max_rows, t_.c) * (t_.by_label() ? 1 : 2)),
        logits(memory_.get(), max_rows, t_.c),
        offsets_(t_.labels.size()) {
    if (!t_.by_label()) mixed_ = Panels<Real>(memory_.get() + Panels<Real>::size(max_rows, t_.c), max_rows, t_.c);
    for (size_t k = 0; k < offsets_.size(); ++k) offsets_[k] = logits.at(0, t_.labels[k]) - logits.data;
    if (!want_examples) return;
    examples_memory_ = Buffer<Real>(Panels<Real>::size(max_rows, t_.b));
    examples = Panels<Real>(examples_memory_.get(), max_rows, t_.b);
  }

  static int64_t row_bytes(const Targets<Real>& t, bool want_examples) {
    const int64_t c = Panels<Real>::count(t.c) * P, b = Panels<Real>::count(t.b) * P;
    return int64_t(sizeof(Real)) * (c * (t.by_label() ? 1 : 2) + (want_examples ? b : 0));
  }

  // Mixes the probabilities of the tile's rows: mu (rows, b) with the given stride.
  void mix_targets(int64_t rows, const Real* mu, int64_t stride) {
    if (t_.by_label()) return;
    for (int64_t p = 0; p < mixed_.count(); ++p)
      panel_product<Real, false>(rows, mixed_.width(p), t_.b, {mu, stride, 1}, t_.probabilities.panel(p),
                                 mixed_.panel(p));
    if (!examples.data) return;
    for (int64_t q = 0; q < examples.count(); ++q)
      for (int64_t p = 0; p < logits.count(); ++p)
        add_product(rows, examples.width(q), logits.width(p), logits.panel(p), t_.transposed.panel(q) + p * P * P,
                    examples.panel(q), p > 0);
  }

  // The loss of one row. Its logits become the gradient, times `scale`, if that is wanted.
  Real row(int64_t row, const Real* mu, Real scale, bool want_gradient) {
    const Real top = row_maximum(row);
    const Real all = t_.uniform != 0 ? row_sum(row) : Real(0);
    // The labelled weight (one, but for rounding), the sum of target * logit, and the sum of the target.
    Real share = 1, on_target, total;
    if (t_.by_label()) {
      on_target = gather(row, mu, share);
      total = share * (t_.keep + t_.uniform * t_.c);
    } else {
      Real mass;
      on_target = dot_mixed(row, mass);
      total = t_.keep * mass + t_.uniform * t_.c;
    }
    if (examples.data) store_examples_on_target(row);
    const Real z = exponentiate(row, top);
    const Real log_z = top + std::log(z);
    if (examples.data) examples_loss(row, log_z, all, scale);
    if (want_gradient && t_.c == 1) {
      scale_row(row, 0, 0);  // exactly: rounding would leave a trace
    } else if (want_gradient) {
      scale_row(row, scale * total / z, scale * t_.uniform * share);
      t_.by_label() ? scatter(row, mu, scale * t_.keep) : subtract_mixed(row, scale * t_.keep);
    }
    return total * log_z - t_.keep * on_target - t_.uniform * share * all;
  }

 private:
  const Targets<Real>& t_;
  Buffer<Real> memory_;

 public:
  Panels<Real> logits;    // (rows, c); columns beyond c hold a very negative number
  Panels<Real> examples;  // (rows, b): scale times the loss against each example's own target

  static void add_product(int64_t rows, int64_t columns, int64_t depth, const Real* a, const Real* b, Real* c,
                          bool accumulate) {
    accumulate ? panel_product<Real, true>(rows, columns, depth, {a, P, 1}, b, c)
               : panel_product<Real, false>(rows, columns, depth, {a, P, 1}, b, c);
  }

 private:
  // Calls body on each vector of a row.
  template <class Body>
  MULTIMIX_INLINE void each_vector(const Panels<Real>& panels, int64_t row, const Body& body) const {
    for (int64_t p = 0; p < panels.count(); ++p) {
      Real* x = panels.panel(p) + row * P;
      for (int64_t v = 0; v < panels.width(p); v += N) body(x + v);
    }
  }

  Real row_maximum(int64_t row) const {
    F top = splat<F>(std::numeric_limits<Real>::lowest());
    each_vector(logits, row, [&](const Real* x) { top = max(top, load<F>(x)); });
    return maximum(top);
  }

  Real row_sum(int64_t row) const {
    Real total = 0;
    F vectors{};
    for (int64_t p = 0; p < logits.count(); ++p) {
      const Real* x = logits.panel(p) + row * P;
      int64_t j = 0;
      for (; j + N <= logits.width(p); j += N) vectors += load<F>(x + j);
      for (; j < logits.width(p); ++j) total += x[j];
    }
    return total + sum(vectors);
  }

  Real exponentiate(int64_t row, Real top) const {
    F total{};
    each_vector(logits, row, [&](Real* x) {
      const F e = exp(load<F>(x) - top);
      store(x, e);
      total += e;
    });
    return sum(total);
  }

  void scale_row(int64_t row, Real factor, Real constant) const {
    each_vector(logits, row, [&](Real* x) { store(x, load<F>(x) * factor - constant); });
  }

  Real gather(int64_t row, const Real* mu, Real& share) const {
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
        for (int u = 0; u < 4; ++u) part[u] += mu[k + u] * x[offsets_[k + u]];
      for (; k < count; ++k) part[0] += mu[k] * x[offsets_[k]];
    } else {
      share = 0;
      for (int64_t k = 0; k < count; ++k) {
        const Real w = mu[t_.labelled[k]];
        share += w;
        part[0] += w == 0 ? Real(0) : w * x[offsets_[k]];
      }
    }
    return (part[0] + part[1]) + (part[2] + part[3]);
  }

  void scatter(int64_t row, const Real* mu, Real factor) const {
    Real* x = logits.data + row * P;
    const int64_t count = int64_t(offsets_.size());
    if (count == t_.b)
      for (int64_t k = 0; k < count; ++k) x[offsets_[k]] -= factor * mu[k];
    else
      for (int64_t k = 0; k < count; ++k) x[offsets_[k]] -= factor * mu[t_.labelled[k]];
  }

  Real dot_mixed(int64_t row, Real& mass) const {
    F dot{}, total{};
    for (int64_t p = 0; p < mixed_.count(); ++p)
      for (int64_t v = 0; v < mixed_.width(p); v += N) {
        const F y = load<F>(mixed_.panel(p) + row * P + v);
        dot += y * load<F>(logits.panel(p) + row * P + v);
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

  // For labels: the logit of each example's class. For probabilities mix_targets has multiplied them out.
  void store_examples_on_target(int64_t row) const {
    if (!t_.by_label()) return;
    each_vector(examples, row, [](Real* x) { store(x, F{}); });
    for (size_t k = 0; k < offsets_.size(); ++k) *examples.at(row, t_.labelled[k]) = logits.data[offsets_[k] + row * P];
  }

  void examples_loss(int64_t row, Real log_z, Real all, Real scale) const {
    const auto loss = [&](int64_t i, Real mass) {
      Real& e = *examples.at(row, i);
      e = scale * ((t_.keep * mass + t_.uniform * t_.c) * log_z - t_.keep * e - t_.uniform * all);
    };
    if (t_.by_label())
      for (const int64_t i : t_.labelled) loss(i, 1);
    else
      for (int64_t i = 0; i < t_.b; ++i) loss(i, t_.sums[i]);
  }

  Vector<int64_t> offsets_;  // of each labelled example's class in the logits of row 0
  Panels<Real> mixed_;       // (rows, c), for probabilities
  Buffer<Real> examples_memory_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
