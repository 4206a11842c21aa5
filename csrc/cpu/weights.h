// Weights of a tile of rows at one location: mu (rows, b), each row summing to one.
//
// Gammas are drawn in straight line for whole vectors, two per Philox block; the few that are rejected, and those of
// small subsets, are drawn from a list of elements, a vector of elements at a time, at four times the cost. Of larger
// subsets (m < b) the whole row is drawn, and what is not chosen becomes zero. Cost per gamma: half a Philox block, 2.5
// logarithms, 1 exponential, half a square root; about 2 % are drawn again.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/gamma.h"
#include "cpu/jobs.h"

namespace multimix {
namespace MULTIMIX_ISA {

// Weights below are exactly zero, so that neither they nor moderate multiples of them are denormal: products with
// denormal numbers cost Intel's processors a hundred times more.
template <class Real>
constexpr Real kLeastWeight = std::is_same_v<Real, float> ? Real(0x1p-120f) : Real(0x1p-1000);

template <class Real, class From>
Real weight(From x) {
  return Real(x < kLeastWeight<Real> ? From(0) : x);
}

// Draws in Real, and in log space if Real is double: ln G, then the exponential relative to the row's maximum, so that
// no row is all zero however small the concentrations.
template <class Real>
class Sampler {
  using S = Simd<Real>;
  using F = typename S::F;
  using U = typename Blocks<Real>::U;
  using Gamma = GammaLanes<Real>;
  using Lanes = typename Concentrations<Real>::Lanes;
  static constexpr int N = S::lanes;
  static constexpr int kStrip = 8;
  static constexpr bool kLogSpace = multimix::MULTIMIX_ISA::kLogSpace<Real>;
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
  static constexpr Real kNothing = kLogSpace ? -kInfinity : Real(0);
  static constexpr int64_t kListed = 4;  // below a subset of one in so many examples, gammas come from a list

 public:
  explicit Sampler(const Draw& draw, int64_t max_rows)
      : draw_(draw), blocks_((draw.b + 1) / 2), by_row_(draw.alpha == nullptr) {
    concentrations_.resize((by_row_ ? max_rows : 2 * blocks_) + 2 * N);
    if (!by_row_)
      for (int64_t i = 0; i < 2 * blocks_; ++i) concentrations_.set(i, draw.alpha[std::min(i, draw.b - 1)]);
    if (draw.m >= draw.candidates) return;
    for (int64_t i = 0; i < draw.b; ++i)
      if (!draw.keep || draw.keep[i] != 0) candidates_.push_back(uint32_t(i));
    picked_.resize(draw.candidates);
  }

  // The rows' stride in a tile; a tile has `padding()` elements more.
  static int64_t stride(int64_t b) { return (b + 1) / 2 * 2; }
  static constexpr int64_t padding() { return 4 * N; }

  // Fills rows [first, first + rows) of the draw: tile[row * stride + example]. If plain is given, it gets the
  // derivative of mu with respect to attention apart from the normalisation, lambda / sum(a lambda), zero in rows
  // without attention.
  void draw(int64_t location, int64_t first, int64_t rows, Real* tile, Real* plain) {
    location_ = uint32_t(location);
    first_ = draw_.row_offset + uint64_t(first);
    stride_ = stride(draw_.b);
    if (by_row_)
      for (int64_t row = 0; row < rows; ++row) concentrations_.set(row, row_concentration(first_ + row));
    pending_.clear();
    const bool subset = draw_.m < draw_.candidates, listed = subset && draw_.m < draw_.b / kListed;
    if (listed) {
      std::fill(tile, tile + rows * stride_, kNothing);
      for (int64_t row = 0; row < rows; ++row) {
        choose_subset(row);
        for (int64_t rank = 0; rank < draw_.candidates; ++rank)
          if (picked_[rank]) pending_.push_back({uint32_t(row), candidates_[rank]});
      }
    } else {
      draw_all(rows, tile);
    }
    for (uint32_t attempt = listed ? 0 : 1; !pending_.empty() && attempt < kMaxAttempts; ++attempt)
      draw_pending(attempt, tile);
    for (int64_t row = 0; subset && !listed && row < rows; ++row) {
      choose_subset(row);
      Real* weights = tile + row * stride_;
      for (int64_t rank = 0; rank < draw_.candidates; ++rank) {
        Real& weight = weights[candidates_[rank]];
        weight = picked_[rank] ? weight : kNothing;
      }
    }
    for (int64_t row = 0; row < rows; ++row) {
      row_ = first + row;
      normalise(tile + row * stride_, plain ? plain + row * stride_ : nullptr, location);
    }
  }

 private:
  struct Element {
    uint32_t row;
    uint32_t example;
  };

  Words<uint64_t> scalar_words(uint64_t row, Purpose purpose, uint32_t block) const {
    return philox<ScalarWords, uint64_t>({block, location_word(location_, purpose, 0), row & 0xFFFFFFFFu, row >> 32},
                                         draw_.seed);
  }

  double row_concentration(uint64_t row) const {
    if (draw_.low == draw_.high) return draw_.low;
    const double u = multimix::uniform(uint32_t(scalar_words(row, kConcentration, 0).w0));
    return draw_.low + (draw_.high - draw_.low) * u;
  }

  // Floyd's sampling without replacement among the ranks of the candidates: the t-th is random among the first j + 1 of
  // them, or j itself if that one was drawn before. The fewer are drawn, those that are mixed or those that are not;
  // picked_ says which are mixed.
  void choose_subset(int64_t row) {
    const bool few = 2 * draw_.m <= draw_.candidates;
    const int64_t count = few ? draw_.m : draw_.candidates - draw_.m;
    std::fill(picked_.begin(), picked_.end(), uint8_t(!few));
    const U word = splat<U>(location_word(location_, kSubset, 0));
    const U row_low = splat<U>(uint32_t(first_ + row)), row_high = splat<U>(uint32_t((first_ + row) >> 32));
    for (int64_t first = 0; first < count; first += 4 * N) {
      const Words<U> w = Blocks<Real>::draw(iota<U>() + uint32_t(first / 4), word, row_low, row_high, draw_.seed);
      const U lanes[4] = {w.w0, w.w1, w.w2, w.w3};
      uint32_t words[4 * N];  // in the order of t
      for (int l = 0; l < N; ++l)
        for (int k = 0; k < 4; ++k) words[4 * l + k] = uint32_t(lanes[k][l]);
      for (int64_t t = first; t < std::min(first + 4 * N, count); ++t) {
        const uint64_t j = uint64_t(draw_.candidates - count + t);
        const uint64_t rank = uint64_t(words[t - first]) * (j + 1) >> 32;
        picked_[picked_[rank] == uint8_t(few) ? j : rank] = few;
      }
    }
  }

  // Where in the tile the next vector of blocks starts.
  struct Cursor {
    int64_t row = 0, block = 0;
  };

  // Calls whole(row, block) if the next N blocks belong to one row, otherwise lane(l, row, block) for each.
  template <class Whole, class Lane>
  MULTIMIX_INLINE void next_blocks(Cursor& at, const Whole& whole, const Lane& lane) const {
    if (at.block + N <= blocks_) {
      whole(at.row, at.block);
      at.block += N;
      if (at.block == blocks_) at = {at.row + 1, 0};
      return;
    }
    for (int l = 0; l < N; ++l) {
      lane(l, at.row, at.block);
      if (++at.block == blocks_) at = {at.row + 1, 0};
    }
  }

  // Every element of the tile, in memory order: vectors run over the rows' ends, as rows are blocks_ blocks long. Three
  // passes over a strip of vectors in the first-level cache: each is short enough for several vectors to be in flight.
  void draw_all(int64_t rows, Real* tile) {
    const int64_t total = rows * blocks_;
    Cursor words, gammas;
    U strip[kStrip][4];
    for (int64_t done = 0; done < total; done += kStrip * N) {
      const int vectors = int(std::min<int64_t>(kStrip, (total - done + N - 1) / N));
      for (int v = 0; v < vectors; ++v) draw_words(words, strip[v]);
      for (int v = 0; v < vectors; ++v) make_normals(strip[v]);
      for (int v = 0; v < vectors; ++v) make_gammas(gammas, strip[v], rows, total, done + v * N, tile);
    }
  }

  MULTIMIX_INLINE void draw_words(Cursor& at, U (&w)[4]) const {
    U block, row_low, row_high;
    next_blocks(
        at,
        [&](int64_t row, int64_t first) {
          block = iota<U>() + uint32_t(first);
          row_low = splat<U>(uint32_t(first_ + row));
          row_high = splat<U>(uint32_t((first_ + row) >> 32));
        },
        [&](int l, int64_t row, int64_t i) {
          block[l] = uint32_t(i);
          row_low[l] = uint32_t(first_ + row);
          row_high[l] = uint32_t((first_ + row) >> 32);
        });
    const U word = splat<U>(location_word(location_, kGamma, 0));
    const Words<U> drawn = Blocks<Real>::draw(block, word, row_low, row_high, draw_.seed);
    w[0] = drawn.w0, w[1] = drawn.w1, w[2] = drawn.w2, w[3] = drawn.w3;
  }

  // Words into two normals and two logarithms of uniforms.
  static MULTIMIX_INLINE void make_normals(U (&w)[4]) {
    F x, y;
    Gamma::normals(w[0], w[1], x, y);
    w[0] = (U)x, w[1] = (U)y;
    w[2] = (U)log(Blocks<Real>::uniform(w[2]));
    w[3] = (U)log(Blocks<Real>::uniform(w[3]));
  }

  MULTIMIX_INLINE void make_gammas(Cursor& at, const U (&w)[4], int64_t rows, int64_t total, int64_t done, Real* tile) {
    Lanes even{}, odd{};
    next_blocks(
        at,
        [&](int64_t row, int64_t first) {
          if (by_row_)
            even = odd = concentrations_.all(row);
          else
            for (int l = 0; l < N; ++l) set_lanes(l, row, first + l, even, odd);
        },
        [&](int l, int64_t row, int64_t i) { set_lanes(l, std::min(row, rows - 1), i, even, odd); });
    const auto a = Gamma::candidate((F)w[0], (F)w[2], even.c), b = Gamma::candidate((F)w[1], (F)w[3], odd.c);
    store_interleaved(tile + 2 * done, Gamma::value(a, even), Gamma::value(b, odd));
    const auto accept_a = Gamma::accepted(a), accept_b = Gamma::accepted(b);
    if (!any(~(accept_a & accept_b))) return;
    for (int l = 0; l < N && done + l < total; ++l) {
      if (accept_a[l] && accept_b[l]) continue;
      const uint32_t row = uint32_t((done + l) / blocks_), i = uint32_t((done + l) % blocks_) * 2;
      if (!accept_a[l]) pending_.push_back({row, i});
      if (!accept_b[l] && i + 1 < draw_.b) pending_.push_back({row, i + 1});
    }
  }

  // One attempt for every pending element; those rejected stay pending. A candidate that is rejected is stored too:
  // after the last attempt it is taken.
  void draw_pending(uint32_t attempt, Real* tile) {
    size_t kept = 0;
    for (size_t done = 0; done < pending_.size(); done += N) {
      const int count = int(std::min<size_t>(N, pending_.size() - done));
      U example{}, row_low{}, row_high{};
      uint32_t at[N] = {};
      for (int l = 0; l < count; ++l) {
        const Element e = pending_[done + l];
        const uint64_t name = first_ + e.row;
        example[l] = e.example;
        row_low[l] = uint32_t(name);
        row_high[l] = uint32_t(name >> 32);
        at[l] = by_row_ ? e.row : e.example;
      }
      const Lanes lanes = concentrations_.gather(at);
      const U word = splat<U>(location_word(location_, kGamma, attempt));
      const auto k =
          Gamma::candidate(Blocks<Real>::draw(example >> 1, word, row_low, row_high, draw_.seed), example, lanes);
      const F g = Gamma::value(k, lanes);
      const auto accept = Gamma::accepted(k);
      for (int l = 0; l < count; ++l) {
        const Element e = pending_[done + l];
        if (k.y[l] > 0) tile[int64_t(e.row) * stride_ + e.example] = g[l];
        if (!accept[l]) pending_[kept++] = e;
      }
    }
    pending_.resize(kept);
  }

  MULTIMIX_INLINE void set_lanes(int l, int64_t row, int64_t block, Lanes& even, Lanes& odd) const {
    concentrations_.set_lane(l, by_row_ ? row : 2 * block, even);
    concentrations_.set_lane(l, by_row_ ? row : 2 * block + 1, odd);
  }

  // Scales a row by the attention and to sum to one. A row whose every attention is zero uses uniform attention, a
  // constant.
  void normalise(Real* row, Real* plain, int64_t location) {
    const int64_t b = draw_.b;
    const double* attention = draw_.attention ? draw_.attention + location * b : nullptr;
    const bool dead = attention && !has_attention(row, attention);
    const double* scale = attention && !dead ? attention : draw_.keep;
    if (stride_ > b) row[b] = kLogSpace ? -kInfinity : Real(0);
    if constexpr (kLogSpace) {
      exponentiate(row, plain, scale);
    } else {
      if (plain) std::copy(row, row + b, plain);
      if (scale)
        for (int64_t i = 0; i < b; ++i) row[i] *= Real(scale[i]);
    }
    const Real total = row_sum(row);
    if constexpr (!kLogSpace)
      if (!(total > Real(1e-30))) return exact_row(row, plain, location);
    const Real inverse = 1 / total;
    int64_t i = 0;
    for (; i + N <= stride_; i += N) {
      const F x = load<F>(row + i) * inverse;
      store(row + i, x < kLeastWeight<Real> ? F{} : x);
    }
    for (; i < stride_; ++i) row[i] = weight<Real>(row[i] * inverse);
    if (plain)
      for (int64_t i = 0; i < b; ++i)
        plain[i] = dead || (draw_.keep && draw_.keep[i] == 0) ? Real(0) : plain[i] * inverse;
  }

  bool has_attention(const Real* row, const double* attention) const {
    for (int64_t i = 0; i < draw_.b; ++i)
      if (attention[i] != 0 && row[i] > (kLogSpace ? -kInfinity : Real(0))) return true;
    return false;
  }

  // From ln G to a G and G, relative to the greatest a G.
  void exponentiate(Real* row, Real* plain, const double* scale) const {
    if (plain) std::copy(row, row + draw_.b, plain);
    if (scale)
      for (int64_t i = 0; i < draw_.b; ++i) row[i] = scale[i] != 0 ? row[i] + std::log(scale[i]) : -kInfinity;
    const Real top = *std::max_element(row, row + draw_.b);
    exponentiate(row, stride_, top);
    if (plain) exponentiate(plain, draw_.b, top);
  }

  static void exponentiate(Real* x, int64_t count, Real top) {
    for (int64_t i = 0; i < count; i += N) {
      Real part[N];
      const int64_t size = std::min<int64_t>(N, count - i);
      for (int64_t l = 0; l < N; ++l) part[l] = l < size ? x[i + l] - top : 0;
      const F v = load<F>(part);
      store(part, v > -693 ? exp(v < 708 ? v : splat<F>(708)) : F{});  // from 2^-1000 on, as weight() keeps them
      std::copy(part, part + size, x + i);
    }
  }

  // Attention so small that float products vanish: the row again, in double and in log space.
  void exact_row(Real* row, Real* plain, int64_t location) const {
    Sampler<double> exact(draw_, 1);
    Vector<double> mu(stride_ + Sampler<double>::padding()), derivative(plain ? mu.size() : 0);
    exact.draw(location, row_, 1, mu.data(), plain ? derivative.data() : nullptr);
    for (int64_t i = 0; i < stride_; ++i) row[i] = weight<Real>(mu[i]);
    const double largest = std::numeric_limits<Real>::max();
    for (int64_t i = 0; plain && i < stride_; ++i) plain[i] = weight<Real>(std::min(derivative[i], largest));
  }

  Real row_sum(const Real* row) const {
    F total{};
    int64_t i = 0;
    for (; i + N <= stride_; i += N) total += load<F>(row + i);
    Real rest = 0;
    for (; i < stride_; ++i) rest += row[i];
    return sum(total) + rest;
  }

  const Draw& draw_;
  int64_t blocks_, stride_ = 0;
  bool by_row_;
  uint32_t location_ = 0;
  uint64_t first_ = 0;
  int64_t row_ = 0;
  Concentrations<Real> concentrations_;
  Vector<uint32_t> candidates_;
  Vector<uint8_t> picked_;  // by rank
  Vector<Element> pending_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
