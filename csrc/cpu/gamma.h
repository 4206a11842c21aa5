// Gamma variates of one vector of lanes: Philox words, Box-Muller, Marsaglia-Tsang (see stream.h).
//
// In double they are drawn in log space, so that no sum is zero however small the concentrations.
#pragma once

#include <cmath>
#include <limits>

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

template <class Real>
constexpr bool kLogSpace = std::is_same_v<Real, double>;

// What gammas need of their concentrations, by row or by example.
template <class Real>
class Concentrations {
  using F = typename Simd<Real>::F;
  static constexpr int N = Simd<Real>::lanes;

 public:
  // Of N gammas.
  struct Lanes {
    Concentration<F> c;
    F log_d;
  };

  void resize(int64_t count) {
    for (auto* values : {&d_, &q_, &exponent_, &log_d_}) values->resize(count);
  }

  void set(int64_t i, double alpha) {
    const Real a = Real(alpha);
    d_[i] = a + Real(2.0 / 3);
    q_[i] = 1 / (3 * std::sqrt(d_[i]));
    exponent_[i] = -1 / a;
    if constexpr (kLogSpace<Real>) log_d_[i] = std::log(d_[i]);
  }

  // N neighbours from i on.
  void set(int64_t i, F alpha) {
    const F d = alpha + Real(2.0 / 3);
    store(&d_[i], d);
    store(&q_[i], 1 / (3 * sqrt(d)));
    store(&exponent_[i], -1 / alpha);
    if constexpr (kLogSpace<Real>) store(&log_d_[i], log(d));
  }

  // The same for all lanes; N neighbours; any N.
  MULTIMIX_INLINE Lanes all(int64_t i) const {
    return {{splat<F>(d_[i]), splat<F>(q_[i]), splat<F>(exponent_[i])}, kLogSpace<Real> ? splat<F>(log_d_[i]) : F{}};
  }
  MULTIMIX_INLINE Lanes neighbours(int64_t i) const {
    return {{load<F>(&d_[i]), load<F>(&q_[i]), load<F>(&exponent_[i])}, kLogSpace<Real> ? load<F>(&log_d_[i]) : F{}};
  }
  MULTIMIX_INLINE Lanes gather(const uint32_t* at) const {
    Lanes lanes{};
    for (int l = 0; l < N; ++l) set_lane(l, at[l], lanes);
    return lanes;
  }
  MULTIMIX_INLINE void set_lane(int l, int64_t i, Lanes& to) const {
    to.c.d[l] = d_[i], to.c.q[l] = q_[i], to.c.exponent[l] = exponent_[i];
    if constexpr (kLogSpace<Real>) to.log_d[l] = log_d_[i];
  }

 private:
  Vector<Real> d_, q_, exponent_, log_d_;
};

template <class Real>
struct GammaLanes {
  using F = typename Simd<Real>::F;
  using U = typename Blocks<Real>::U;

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

  // G, or ln G in log space.
  static MULTIMIX_INLINE F value(const Candidate<F>& k, const typename Concentrations<Real>::Lanes& lanes) {
    if constexpr (kLogSpace<Real>) return log_gamma_value(k, lanes.c, lanes.log_d);
    return gamma_value<VectorMath>(k, lanes.c);
  }

  // One attempt of the odd or even example of each lane's block.
  static MULTIMIX_INLINE Candidate<F> candidate(const Words<U>& w, U example,
                                                const typename Concentrations<Real>::Lanes& lanes) {
    F x, y;
    normals(w.w0, w.w1, x, y);
    const auto is_odd = (example & 1) != 0;
    return candidate(is_odd ? y : x, log(Blocks<Real>::uniform(is_odd ? w.w3 : w.w2)), lanes.c);
  }
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
