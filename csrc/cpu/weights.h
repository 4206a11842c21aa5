// Weights of a tile of rows at one location: mu (rows, b), each row summing to one.
//
// Gammas are drawn in straight line for whole vectors, two per Philox block; the few that are rejected, and all those
// of subsets (m < b), are drawn from a list of elements, a vector of elements at a time. Cost per gamma: half a Philox
// block, 2.5 logarithms, 1 exponential, half a square root; about 2 % are drawn again.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/jobs.h"
#include "cpu/memory.h"
#include "cpu/vector_math.h"

namespace multimix {
namespace MULTIMIX_ISA {

// The 64-bit words of Philox spread over the lanes of Real: for float two vectors of blocks, whose low halves are
// merged into the even and odd 32-bit lanes; for double one.
template <class Real>
struct Blocks;

template <>
struct Blocks<float> {
  using U = U32;
  static MULTIMIX_INLINE Words<U> draw(U block, U location, U row_low, U row_high, uint64_t seed) {
    const Words<U64> even = philox<VectorMath, U64>({(U64)block, (U64)location, (U64)row_low, (U64)row_high}, seed);
    const Words<U64> odd =
        philox<VectorMath, U64>({(U64)block >> 32, (U64)location >> 32, (U64)row_low >> 32, (U64)row_high >> 32}, seed);
    return {merge(even.w0, odd.w0), merge(even.w1, odd.w1), merge(even.w2, odd.w2), merge(even.w3, odd.w3)};
  }
  static MULTIMIX_INLINE U merge(U64 even, U64 odd) { return (U)((even & 0xFFFFFFFFull) | (odd << 32)); }
  static MULTIMIX_INLINE F32 uniform(U w) { return __builtin_convertvector(w, F32) * 0x1p-32f + 0x1p-33f; }
};

template <>
struct Blocks<double> {
  using U = U64;
  static MULTIMIX_INLINE Words<U> draw(U block, U location, U row_low, U row_high, uint64_t seed) {
    return philox<VectorMath, U64>({block, location, row_low, row_high}, seed);
  }
  static MULTIMIX_INLINE F64 uniform(U w) {
    F64 u;
    for (int i = 0; i < Simd<double>::lanes; ++i) u[i] = multimix::uniform(uint32_t(w[i]));
    return u;
  }
};

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
  static constexpr int N = S::lanes;
  static constexpr int kStrip = 8;
  static constexpr bool kLogSpace = std::is_same_v<Real, double>;
  static constexpr Real kInfinity = std::numeric_limits<Real>::infinity();

 public:
  explicit Sampler(const Draw& draw, int64_t max_rows)
      : draw_(draw), blocks_((draw.b + 1) / 2), by_row_(draw.alpha == nullptr) {
    const int64_t count = (by_row_ ? max_rows : 2 * blocks_) + 2 * N;
    for (auto* values : {&d_, &q_, &exponent_, &log_d_}) values->resize(count);
    if (!by_row_)
      for (int64_t i = 0; i < 2 * blocks_; ++i) set_concentration(i, draw.alpha[std::min(i, draw.b - 1)]);
    if (draw.m < draw.candidates) keys_.resize(draw.b + 1);
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
      for (int64_t row = 0; row < rows; ++row) set_concentration(row, row_concentration(first_ + row));
    pending_.clear();
    if (draw_.m < draw_.candidates) {
      std::fill(tile, tile + rows * stride_, kLogSpace ? -kInfinity : Real(0));
      for (int64_t row = 0; row < rows; ++row) choose_subset(row);
    } else {
      draw_all(rows, tile);
    }
    for (uint32_t attempt = draw_.m < draw_.candidates ? 0 : 1; !pending_.empty() && attempt < kMaxAttempts; ++attempt)
      draw_pending(attempt, tile);
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

  void set_concentration(int64_t i, double alpha) {
    const Real a = Real(alpha);
    d_[i] = a + Real(2.0 / 3);
    q_[i] = 1 / (3 * std::sqrt(d_[i]));
    exponent_[i] = -1 / a;
    if constexpr (kLogSpace) log_d_[i] = std::log(d_[i]);
  }

  Words<uint64_t> scalar_words(uint64_t row, Purpose purpose, uint32_t block) const {
    return philox<ScalarWords, uint64_t>({block, location_word(location_, purpose, 0), row & 0xFFFFFFFFu, row >> 32},
                                         draw_.seed);
  }

  double row_concentration(uint64_t row) const {
    if (draw_.low == draw_.high) return draw_.low;
    const double u = multimix::uniform(uint32_t(scalar_words(row, kConcentration, 0).w0));
    return draw_.low + (draw_.high - draw_.low) * u;
  }

  // The examples with the m smallest keys of a row become pending. Keys are compared together with the example, so that
  // ties go to the smaller one. Keys are uniform, so those below a little more than m / candidates nearly always hold
  // the m smallest; if not, all are looked at.
  void choose_subset(int64_t row) {
    const double share = (draw_.m + 4 * std::sqrt(double(draw_.m)) + 4) / double(draw_.candidates);
    int64_t count = collect_keys(row, share < 1 ? uint32_t(share * 0x1p32) : ~0u);
    if (count < draw_.m) count = collect_keys(row, ~0u);
    std::nth_element(keys_.begin(), keys_.begin() + (draw_.m - 1), keys_.begin() + count);
    for (int64_t k = 0; k < draw_.m; ++k) pending_.push_back({uint32_t(row), uint32_t(keys_[k])});
  }

  // The keys of a row up to a limit, each with its example; their number.
  int64_t collect_keys(int64_t row, uint32_t limit) {
    int64_t count = 0;
    const U word = splat<U>(location_word(location_, kSubset, 0));
    const U row_low = splat<U>(uint32_t(first_ + row)), row_high = splat<U>(uint32_t((first_ + row) >> 32));
    for (int64_t first = 0; first < draw_.b; first += 4 * N) {
      const Words<U> w = Blocks<Real>::draw(iota<U>() + uint32_t(first / 4), word, row_low, row_high, draw_.seed);
      const U lanes[4] = {w.w0, w.w1, w.w2, w.w3};
      const int64_t last = std::min(first + 4 * N, draw_.b);
      for (int64_t i = first; i < last; ++i) {
        const uint32_t key = uint32_t(lanes[i & 3][(i - first) >> 2]);
        keys_[count] = (uint64_t(key) << 32) | uint64_t(i);
        count += key <= limit && !(draw_.keep && draw_.keep[i] == 0);
      }
    }
    return count;
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
    normals(w[0], w[1], x, y);
    w[0] = (U)x, w[1] = (U)y;
    w[2] = (U)log(Blocks<Real>::uniform(w[2]));
    w[3] = (U)log(Blocks<Real>::uniform(w[3]));
  }

  MULTIMIX_INLINE void make_gammas(Cursor& at, const U (&w)[4], int64_t rows, int64_t total, int64_t done, Real* tile) {
    Concentration<F> even, odd;
    F log_d_even{}, log_d_odd{};
    next_blocks(
        at,
        [&](int64_t row, int64_t first) {
          if (by_row_) {
            even = odd = {splat<F>(d_[row]), splat<F>(q_[row]), splat<F>(exponent_[row])};
            if constexpr (kLogSpace) log_d_even = log_d_odd = splat<F>(log_d_[row]);
          } else {
            for (int l = 0; l < N; ++l) set_lane(l, row, first + l, even, odd, log_d_even, log_d_odd);
          }
        },
        [&](int l, int64_t row, int64_t i) {
          set_lane(l, std::min(row, rows - 1), i, even, odd, log_d_even, log_d_odd);
        });
    const auto a = candidate((F)w[0], (F)w[2], even), b = candidate((F)w[1], (F)w[3], odd);
    store_interleaved(tile + 2 * done, value(a, even, log_d_even), value(b, odd, log_d_odd));
    const auto accept_a = accepted(a), accept_b = accepted(b);
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
      U blocks{}, row_low{}, row_high{}, odd{};
      Concentration<F> c{splat<F>(1), splat<F>(1), splat<F>(1)};
      F log_d{};
      for (int l = 0; l < count; ++l) {
        const Element e = pending_[done + l];
        const uint64_t name = first_ + e.row;
        blocks[l] = e.example >> 1;
        odd[l] = e.example & 1;
        row_low[l] = uint32_t(name);
        row_high[l] = uint32_t(name >> 32);
        const int64_t i = by_row_ ? e.row : e.example;
        c.d[l] = d_[i], c.q[l] = q_[i], c.exponent[l] = exponent_[i];
        if constexpr (kLogSpace) log_d[l] = log_d_[i];
      }
      const U word = splat<U>(location_word(location_, kGamma, attempt));
      const Words<U> w = Blocks<Real>::draw(blocks, word, row_low, row_high, draw_.seed);
      F x, y;
      normals(w.w0, w.w1, x, y);
      const auto is_odd = odd != 0;
      const auto k = candidate(is_odd ? y : x, log(Blocks<Real>::uniform(is_odd ? w.w3 : w.w2)), c);
      const F g = value(k, c, log_d);
      const auto accept = accepted(k);
      for (int l = 0; l < count; ++l) {
        const Element e = pending_[done + l];
        if (k.y[l] > 0) tile[int64_t(e.row) * stride_ + e.example] = g[l];
        if (!accept[l]) pending_[kept++] = e;
      }
    }
    pending_.resize(kept);
  }

  MULTIMIX_INLINE void set_lane(int l, int64_t row, int64_t block, Concentration<F>& even, Concentration<F>& odd,
                                F& log_d_even, F& log_d_odd) const {
    const int64_t i = by_row_ ? row : 2 * block, j = by_row_ ? row : 2 * block + 1;
    even.d[l] = d_[i], even.q[l] = q_[i], even.exponent[l] = exponent_[i];
    odd.d[l] = d_[j], odd.q[l] = q_[j], odd.exponent[l] = exponent_[j];
    if constexpr (kLogSpace) log_d_even[l] = log_d_[i], log_d_odd[l] = log_d_[j];
  }

  // Box-Muller.
  static MULTIMIX_INLINE void normals(U w0, U w1, F& x, F& y) {
    const F radius = sqrt(log(Blocks<Real>::uniform(w0)) * Real(-2));
    F c, s;
    sincos_turn(w1, c, s);
    x = radius * c;
    y = radius * s;
  }

  static MULTIMIX_INLINE Candidate<F> candidate(F x, F log_u, const Concentration<F>& c) {
    return gamma_candidate<VectorMath, F>(x, log_u, c, splat<F>(1), splat<F>(std::numeric_limits<Real>::min()));
  }

  static MULTIMIX_INLINE auto accepted(const Candidate<F>& k) { return (k.y > 0) & (k.slack > 0); }

  static MULTIMIX_INLINE F value(const Candidate<F>& k, const Concentration<F>& c, F log_d) {
    if constexpr (kLogSpace) return log_gamma_value(k, c, log_d);
    return gamma_value<VectorMath>(k, c);
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
  Vector<Real> d_, q_, exponent_, log_d_;
  Vector<uint64_t> keys_;
  Vector<Element> pending_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
