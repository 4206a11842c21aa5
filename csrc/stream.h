// The weight stream, version 2: Philox4x32-10 and gamma variates, one source for the host, for vectors and for devices.
//
// A weight is named by (seed, row, location, example); nothing here depends on tiles, threads or lanes.
// Every function is a template over its scalar or vector type and over M, the static functions for it:
//   M::product(Word, uint32_t)   the 64-bit product of the low 32 bits
//   M::log, M::exp, M::max       of its Real
// Sources: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011); Marsaglia and Tsang, "A simple
// method for generating gamma variables" (ACM TOMS 26, 2000).
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define MULTIMIX_INLINE __host__ __device__ __forceinline__
#define MULTIMIX_UNROLL _Pragma("unroll")
#else
#define MULTIMIX_INLINE inline __attribute__((always_inline))
#define MULTIMIX_UNROLL _Pragma("GCC unroll 10")
#endif

namespace multimix {

enum Purpose : uint32_t { kGamma = 0, kConcentration = 1, kSubset = 2 };
constexpr uint32_t kMaxAttempts = 16;

// Counter word 1: what a draw is for.
MULTIMIX_INLINE constexpr uint32_t location_word(uint32_t location, Purpose purpose, uint32_t attempt) {
  return location * 256u + purpose * 16u + attempt;
}

// Four words; in each 64-bit lane the low half counts and the high half is scratch.
template <class Word>
struct Words {
  Word w0, w1, w2, w3;
};

struct ScalarWords {
  static MULTIMIX_INLINE uint64_t product(uint64_t a, uint32_t b) { return uint64_t(uint32_t(a)) * b; }
};

constexpr uint32_t kPhiloxProduct0 = 0xD2511F53u, kPhiloxProduct1 = 0xCD9E8D57u;
constexpr uint32_t kPhiloxKey0 = 0x9E3779B9u, kPhiloxKey1 = 0xBB67AE85u;

// One round: 2 products of 32 x 32 bits, 4 exclusive ors.
template <class M, class Word>
MULTIMIX_INLINE Words<Word> philox_round(const Words<Word>& c, uint32_t k0, uint32_t k1) {
  const Word p0 = M::product(c.w0, kPhiloxProduct0), p1 = M::product(c.w2, kPhiloxProduct1);
  return {(p1 >> 32) ^ c.w1 ^ uint64_t(k0), p1, (p0 >> 32) ^ c.w3 ^ uint64_t(k1), p0};
}

// Philox4x32-10.
template <class M, class Word>
MULTIMIX_INLINE Words<Word> philox(Words<Word> c, uint64_t seed) {
  uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  MULTIMIX_UNROLL
  for (int round = 0; round < 10; ++round) {
    c = philox_round<M>(c, k0, k1);
    k0 += kPhiloxKey0;
    k1 += kPhiloxKey1;
  }
  return c;
}

// What the first two rounds have in common for all blocks of a row, location, purpose and attempt.
struct alignas(16) PhiloxRow {
  uint32_t x0, x2, y2, y3;
};

template <class M>
MULTIMIX_INLINE PhiloxRow philox_row(uint32_t word, uint64_t row, uint64_t seed) {
  const uint32_t k0 = uint32_t(seed), k1 = uint32_t(seed >> 32);
  const uint64_t p1 = M::product(row, kPhiloxProduct1);
  const uint64_t p0 = M::product(uint32_t(p1 >> 32) ^ word ^ k0, kPhiloxProduct0);
  return {uint32_t(p1) ^ (k0 + kPhiloxKey0), uint32_t(row >> 32) ^ k1, uint32_t(p0 >> 32) ^ (k1 + kPhiloxKey1),
          uint32_t(p0)};
}

// {block, word, low half of the row, high half} after these two rounds.
template <class M>
MULTIMIX_INLINE Words<uint64_t> philox_begin(uint32_t block, const PhiloxRow& row) {
  const uint64_t p0 = M::product(block, kPhiloxProduct0);
  const uint64_t p1 = M::product(uint32_t(p0 >> 32) ^ row.x2, kPhiloxProduct1);
  return {(p1 >> 32) ^ row.x0, p1, uint32_t(p0) ^ row.y2, row.y3};
}

// fma(float32(w), 2^-32, 2^-33) in float32, in (0, 1]; the product is exact, so contraction does not matter.
MULTIMIX_INLINE float uniform(uint32_t w) { return float(w) * 0x1p-32f + 0x1p-33f; }

// What a gamma variate needs of its concentration alpha.
template <class Real>
struct Concentration {
  Real d;         // alpha + 2/3
  Real q;         // 1 / (3 sqrt(d))
  Real exponent;  // -1 / alpha
};

// Marsaglia-Tsang at alpha + 1 from a standard normal x and ln u:
//   t = q x, y = 1 + t, v = y^3, slack E = x^2/2 + d (1 - v + 3 ln y) - ln u; accept iff y > 0 and E > 0.
// As x^2/2 = 9 d t^2 / 2, the slack is 3 d (ln(1 + t) - t + t^2/2 - t^3/3) - ln u, which does not cancel for large d.
template <class Real>
struct Candidate {
  Real y, log_y, slack;
};

template <class M, class Real>
MULTIMIX_INLINE Candidate<Real> gamma_candidate(Real x, Real log_u, const Concentration<Real>& c, Real one, Real tiny) {
  const Real t = c.q * x;
  const Real y = one + t;
  const Real lost = t - (y - one);  // what rounding y left out of ln(1 + t)
  const Real log_y = M::log(M::max(y, tiny)) + lost;
  const Real series = t * (one - t * (one * 0.5f - t * (one / 3)));
  return {y, log_y, (c.d * 3) * (log_y - series) - log_u};
}

// Given acceptance E is a standard exponential independent of x, so exp(-E / alpha) = U^(1/alpha) turns
// Gamma(alpha + 1) into Gamma(alpha).
template <class M, class Real>
MULTIMIX_INLINE Real gamma_value(const Candidate<Real>& k, const Concentration<Real>& c) {
  return c.d * (k.y * k.y * k.y) * M::exp(k.slack * c.exponent);
}

template <class Real>
MULTIMIX_INLINE Real log_gamma_value(const Candidate<Real>& k, const Concentration<Real>& c, Real log_d) {
  return log_d + k.log_y * 3 + k.slack * c.exponent;
}

}  // namespace multimix
