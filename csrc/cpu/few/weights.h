// Weights of mixtures of few examples: which examples of each row, and their weights. Rows lie in the lanes.
//
// A row of m examples draws m gammas and m/4 + 1 further Philox blocks, whatever b is; the about 2 % of gammas that are
// rejected are drawn from a list. Nothing is known of examples that were not drawn: they are never read.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/weights.h"

namespace multimix {
namespace MULTIMIX_ISA {

constexpr int64_t kFewMost = 32;  // examples in a mixture of few

// Whether the rows of a draw are mixtures of few examples.
inline bool draws_few(const Draw& draw) { return draw.m <= kFewMost && 2 * draw.m <= draw.candidates; }

// The mixtures of a tile of rows: the example and the weight in each of m slots; a slot's rows are neighbours.
template <class Real>
class FewTile {
 public:
  FewTile(int64_t m, int64_t rows, bool want_plain)
      : pitch_(round_up(rows, Simd<Real>::lanes)),
        examples_(m * pitch_),
        weights_(m * pitch_),
        plain_(want_plain ? m * pitch_ : 0) {}

  uint32_t* example(int64_t t, int64_t row) { return &examples_[t * pitch_ + row]; }
  const uint32_t* example(int64_t t, int64_t row) const { return &examples_[t * pitch_ + row]; }
  Real* weight(int64_t t, int64_t row) { return &weights_[t * pitch_ + row]; }
  const Real* weight(int64_t t, int64_t row) const { return &weights_[t * pitch_ + row]; }
  // The derivative of the weight by the attention apart from the normalisation, lambda / sum(a lambda), zero in rows
  // without attention.
  bool has_plain() const { return !plain_.empty(); }
  Real* derivative(int64_t t, int64_t row) { return &plain_[t * pitch_ + row]; }
  const Real* derivative(int64_t t, int64_t row) const { return &plain_[t * pitch_ + row]; }

 private:
  int64_t pitch_;
  Vector<uint32_t> examples_;
  Vector<Real> weights_, plain_;
};

// Draws in Real, and in log space if Real is double, as Sampler does.
template <class Real>
class FewSampler {
  using S = Simd<Real>;
  using F = typename S::F;
  using U = typename Blocks<Real>::U;
  using Gamma = GammaLanes<Real>;
  static constexpr int N = S::lanes;
  static constexpr int kStrip = 8;
  static constexpr bool kLogSpace = multimix::MULTIMIX_ISA::kLogSpace<Real>;
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

 public:
  FewSampler(const Draw& draw, int64_t max_rows) : draw_(draw), m_(draw.m), by_row_(draw.alpha == nullptr) {
    if (draw.keep)
      for (int64_t i = 0; i < draw.b; ++i)
        if (draw.keep[i] != 0) candidates_.push_back(uint32_t(i));
    concentrations_.resize(by_row_ ? round_up(max_rows, N) : draw.b);
    if (by_row_) return;
    for (int64_t i = 0; i < draw.b; ++i) concentrations_.set(i, draw.alpha[i]);
  }

  // Rows [first, first + rows) of the draw.
  void draw(int64_t location, int64_t first, int64_t rows, FewTile<Real>& tile) {
    location_ = uint32_t(location);
    first_ = draw_.row_offset + uint64_t(first);
    pending_.clear();
    for (int64_t row = 0; row < rows; row += N) {
      const Names names = names_of(row);
      choose(row, names, tile);
      if (by_row_) set_concentrations(row, names);
    }
    for (int64_t t = 0; t < m_; ++t)
      for (int64_t row = 0; row < rows; row += kStrip * N) draw_slot(row, std::min(rows, row + kStrip * N), t, tile);
    for (uint32_t attempt = 1; !pending_.empty() && attempt < kMaxAttempts; ++attempt) draw_pending(attempt, tile);
    for (int64_t row = 0; row < rows; row += N) normalise(row, std::min<int64_t>(rows - row, N), first, tile);
  }

 private:
  // The 64-bit names of N rows.
  struct Names {
    U low, high;
  };

  Names names_of(int64_t row) const {
    const uint64_t name = first_ + uint64_t(row);
    if constexpr (kLogSpace) {
      const U names = iota<U>() + name;
      return {names & 0xFFFFFFFFull, names >> 32};
    } else {
      const U low = iota<U>() + uint32_t(name);
      const U carried = (U)(low < splat<U>(uint32_t(name)));  // all ones where the low half overflowed
      return {low, splat<U>(uint32_t(name >> 32)) - carried};
    }
  }

  Words<U> words(U block, Purpose purpose, uint32_t attempt, const Names& names) const {
    return Blocks<Real>::draw(block, splat<U>(location_word(location_, purpose, attempt)), names.low, names.high,
                              draw_.seed);
  }

  // floor(w n / 2^32) of 32-bit words.
  static MULTIMIX_INLINE U scaled(U w, uint32_t n) {
    if constexpr (kLogSpace) {
      return product(w, n) >> 32;
    } else {
      return Blocks<float>::merge(product((U64)w, n) >> 32, product((U64)w >> 32, n) >> 32);
    }
  }

  // Floyd's sampling without replacement: rank t of the row is random among the first j + 1 candidates, or j itself if
  // that one was drawn before.
  void choose(int64_t row, const Names& names, FewTile<Real>& tile) const {
    U ranks[kFewMost];
    Words<U> w{};
    for (int64_t t = 0; t < m_; ++t) {
      if (t % 4 == 0) w = words(splat<U>(uint32_t(t / 4)), kSubset, 0, names);
      const uint32_t last = uint32_t(draw_.candidates - m_ + t);
      const U word = t % 4 == 0 ? w.w0 : t % 4 == 1 ? w.w1 : t % 4 == 2 ? w.w2 : w.w3;
      const U rank = scaled(word, last + 1);
      auto taken = rank != rank;
      for (int64_t s = 0; s < t; ++s) taken |= ranks[s] == rank;
      ranks[t] = taken ? splat<U>(last) : rank;
      uint32_t* to = tile.example(t, row);
      if constexpr (!kLogSpace) store(to, ranks[t]);
      if (kLogSpace || !candidates_.empty())
        for (int l = 0; l < N; ++l) to[l] = candidates_.empty() ? uint32_t(ranks[t][l]) : candidates_[ranks[t][l]];
    }
  }

  void set_concentrations(int64_t row, const Names& names) {
    F alpha = splat<F>(Real(draw_.low));
    if (draw_.low != draw_.high) {
      const F u = Blocks<Real>::uniform(words(U{}, kConcentration, 0, names).w0);
      alpha = alpha + Real(draw_.high - draw_.low) * u;
    }
    concentrations_.set(row, alpha);
  }

  // The first attempt at slot t of rows [begin, end), kStrip vectors at most. In passes over them: each is short enough
  // for several vectors to be in flight.
  void draw_slot(int64_t begin, int64_t end, int64_t t, FewTile<Real>& tile) {
    U drawn[kStrip][3];
    F normals[kStrip], log_uniforms[kStrip];
    const int count = int((end - begin + N - 1) / N);
    for (int s = 0; s < count; ++s) {
      const U example = examples_of(tile.example(t, begin + s * N));
      const Words<U> w = words(example >> 1, kGamma, 0, names_of(begin + s * N));
      const auto is_odd = (example & 1) != 0;
      drawn[s][0] = w.w0;
      drawn[s][1] = is_odd ? w.w1 - 0x40000000u : w.w1;  // a sine is the cosine a quarter of a turn before
      drawn[s][2] = is_odd ? w.w3 : w.w2;
    }
    for (int s = 0; s < count; ++s) {
      F sine;
      Gamma::normals(drawn[s][0], drawn[s][1], normals[s], sine);
      log_uniforms[s] = log(Blocks<Real>::uniform(drawn[s][2]));
    }
    for (int s = 0; s < count; ++s) {
      const int64_t row = begin + s * N;
      const auto lanes = by_row_ ? concentrations_.neighbours(row) : concentrations_.gather(tile.example(t, row));
      const auto k = Gamma::candidate(normals[s], log_uniforms[s], lanes.c);
      store(tile.weight(t, row), Gamma::value(k, lanes));
      const auto accepted = Gamma::accepted(k);
      if (!any(~accepted)) continue;
      for (int64_t l = 0; l < std::min<int64_t>(end - row, N); ++l)
        if (!accepted[l]) pending_.push_back({uint32_t(row + l), uint32_t(t)});
    }
  }

  static MULTIMIX_INLINE U examples_of(const uint32_t* from) {
    if constexpr (!kLogSpace) return load<U>(from);
    U example;
    for (int l = 0; l < N; ++l) example[l] = from[l];
    return example;
  }

  // One attempt for every pending slot; a candidate that is rejected is stored too: after the last attempt it is taken.
  void draw_pending(uint32_t attempt, FewTile<Real>& tile) {
    size_t kept = 0;
    for (size_t done = 0; done < pending_.size(); done += N) {
      const int count = int(std::min<size_t>(N, pending_.size() - done));
      U example{};
      Names names{U{}, U{}};
      uint32_t concentration[N] = {};
      for (int l = 0; l < count; ++l) {
        const Slot e = pending_[done + l];
        const uint64_t name = first_ + e.row;
        example[l] = *tile.example(e.slot, e.row);
        names.low[l] = uint32_t(name);
        names.high[l] = uint32_t(name >> 32);
        concentration[l] = by_row_ ? e.row : uint32_t(example[l]);
      }
      const auto lanes = concentrations_.gather(concentration);
      const auto k = Gamma::candidate(words(example >> 1, kGamma, attempt, names), example, lanes);
      const F value = Gamma::value(k, lanes);
      const auto accepted = Gamma::accepted(k);
      for (int l = 0; l < count; ++l) {
        const Slot e = pending_[done + l];
        if (k.y[l] > 0) *tile.weight(e.slot, e.row) = value[l];
        if (!accepted[l]) pending_[kept++] = e;
      }
    }
    pending_.resize(kept);
  }

  // Scales N rows by the attention and to sum to one. A row whose every attention is zero uses uniform attention, a
  // constant.
  void normalise(int64_t row, int64_t rows, int64_t first, FewTile<Real>& tile) const {
    F scale[kFewMost];  // the attention; in log space its logarithm
    for (int64_t t = 0; t < m_; ++t) scale[t] = splat<F>(kLogSpace ? 0 : 1);
    const bool dead = draw_.attention && read_attention(row, tile, scale);
    F total{};
    if constexpr (kLogSpace) {
      F top = splat<F>(-kInfinity);
      for (int64_t t = 0; t < m_; ++t) top = max(top, load<F>(tile.weight(t, row)) + scale[t]);
      for (int64_t t = 0; t < m_; ++t) {
        const F g = load<F>(tile.weight(t, row)) - top, x = g + scale[t];
        if (tile.has_plain()) store(tile.derivative(t, row), g > -708 ? exp(g < 708 ? g : splat<F>(708)) : F{});
        const F weight = x > -708 ? exp(x) : F{};
        store(tile.weight(t, row), weight);
        total += weight;
      }
    } else {
      for (int64_t t = 0; t < m_; ++t) {
        const F g = load<F>(tile.weight(t, row)), weight = scale[t] != 0 ? g * scale[t] : F{};
        if (tile.has_plain()) store(tile.derivative(t, row), g);
        store(tile.weight(t, row), weight);
        total += weight;
      }
    }
    for (int64_t t = 0; t < m_; ++t) {
      store(tile.weight(t, row), load<F>(tile.weight(t, row)) / total);  // a quotient: the weight of one example is 1
      if (tile.has_plain()) store(tile.derivative(t, row), load<F>(tile.derivative(t, row)) / total);
    }
    if (tile.has_plain() && dead) clear_dead(row, tile);
    if constexpr (!kLogSpace) {
      if (!any(~(total > Real(1e-30)))) return;
      for (int64_t l = 0; l < rows; ++l)
        if (!(total[l] > Real(1e-30))) exact_row(first, row + l, tile);
    }
  }

  // The attention of each slot; one everywhere in rows where it is all zero. Whether there are such rows.
  bool read_attention(int64_t row, const FewTile<Real>& tile, F (&scale)[kFewMost]) const {
    bool dead = false;
    for (int l = 0; l < N; ++l) {
      if (is_dead(row + l, tile)) {
        dead = true;
        continue;
      }
      for (int64_t t = 0; t < m_; ++t) {
        const double a = attention(t, row + l, tile);
        scale[t][l] = Real(kLogSpace ? std::log(a) : a);
      }
    }
    return dead;
  }

  double attention(int64_t t, int64_t row, const FewTile<Real>& tile) const {
    return draw_.attention[int64_t(location_) * draw_.b + *tile.example(t, row)];
  }

  bool is_dead(int64_t row, const FewTile<Real>& tile) const {
    for (int64_t t = 0; t < m_; ++t)
      if (attention(t, row, tile) != 0) return false;
    return true;
  }

  void clear_dead(int64_t row, FewTile<Real>& tile) const {
    for (int l = 0; l < N; ++l)
      if (is_dead(row + l, tile))
        for (int64_t t = 0; t < m_; ++t) *tile.derivative(t, row + l) = 0;
  }

  // Attention so small that float products vanish: the row again, in double and in log space.
  void exact_row(int64_t first, int64_t row, FewTile<Real>& tile) const {
    FewSampler<double> exact(draw_, 1);
    FewTile<double> one(m_, 1, tile.has_plain());
    exact.draw(location_, first + row, 1, one);
    for (int64_t t = 0; t < m_; ++t) {
      *tile.weight(t, row) = Real(*one.weight(t, 0));
      const double largest = std::numeric_limits<Real>::max();
      if (tile.has_plain()) *tile.derivative(t, row) = Real(std::min(*one.derivative(t, 0), largest));
    }
  }

  struct Slot {
    uint32_t row, slot;
  };

  const Draw& draw_;
  int64_t m_;
  bool by_row_;
  uint32_t location_ = 0;
  uint64_t first_ = 0;
  Vector<uint32_t> candidates_;  // the examples that are not ignored, if some are
  Concentrations<Real> concentrations_;
  Vector<Slot> pending_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
