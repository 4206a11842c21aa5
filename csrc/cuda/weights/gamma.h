// Gamma variates as one lane of a GPU draws them: Box-Muller, then Marsaglia-Tsang at alpha + 1 (see stream.h).
//
// Logarithms are to base two, as the special function unit takes them. With t = q x and y = 1 + t the slack is
//   E = 3 d (log2 y - log2(e) (t - t^2/2 + t^3/3)) - log2 u;
// an attempt is accepted iff y > 0 and E > 0, and then G = d y^3 2^(-E / alpha). y <= 0 counts as 2^-126: then E < 0.
//
// Where the special function unit rounds, at worst: log2 absolutely by 2^-22 in (1/2, 2) and relatively by 2^-22
// beyond, 2^x relatively by 2^-22, the square root by 2^-23. log2 y enters E times 3 d, and E divided by alpha enters
// G: errors of G of 2e-6 at alpha = 4, 3e-6 at 1/2, and 1e-5 for 3 in 10^5 variates at 0.3, nearly all far below 1e-3.
// Below 0.3 log space draws them, from pairs of floats (log_gamma.h).
#pragma once

#include <math.h>

#include <type_traits>

#include "cuda/device/primitives.h"
#include "cuda/host/jobs.h"
#include "stream.h"

namespace multimix {

struct FloatPair;  // the numbers of log space; log_gamma.h has its specialisations of what follows

template <Arithmetic arithmetic>
using Real = std::conditional_t<arithmetic == Arithmetic::kLogSpace, FloatPair, float>;

// Philox's products as one instruction each.
struct WideWords {
  static MULTIMIX_DEVICE uint64_t product(uint64_t a, uint32_t b) {
    uint64_t wide;
    asm("mul.wide.u32 %0, %1, %2;" : "=l"(wide) : "r"(uint32_t(a)), "r"(b));
    return wide;
  }
};

MULTIMIX_DEVICE Words<uint64_t> draw_words(uint64_t seed, uint32_t block, uint32_t word, uint64_t row) {
  return philox<WideWords, uint64_t>({block, word, uint32_t(row), row >> 32}, seed);
}

// What a gamma variate needs of its concentration alpha. Where it is that of a whole row, the factor d of each variate
// cancels when the row is normalised.
template <class T>
struct __align__(16) GammaShape {
  T d3;        // 3 d = 3 alpha + 2
  T q;         // 1 / (3 sqrt(d))
  T exponent;  // 1 / alpha
};

template <class T>
MULTIMIX_DEVICE GammaShape<T> gamma_shape(T alpha) {
  const T d = alpha + T(2.0 / 3);
  return {d * 3, rsqrtf(d) * (1.0f / 3), __fdividef(1.0f, alpha)};
}

// That of a row, from the uniform that it draws.
template <class T>
MULTIMIX_DEVICE T concentration(const Draw& draw, float u) {
  return T(draw.low) + T(draw.high - draw.low) * u;
}

constexpr float kTiny = 0x1p-126f;

// log2 x. The special function unit's has an absolute error of 2^-22 near one.
template <Arithmetic arithmetic>
MULTIMIX_DEVICE float binary_logarithm(float x) {
  return arithmetic == Arithmetic::kHardware ? fast_log2(x) : log2f(x);
}

// sqrt(-2 ln u) of the uniform of a word: u near one has a small logarithm, whose relative error counts.
template <Arithmetic arithmetic>
MULTIMIX_DEVICE Real<arithmetic> radius(uint32_t word) {
  const float u = uniform(word);
  if constexpr (arithmetic == Arithmetic::kHardware) {
    const float w = 1.0f - u;  // exact
    return fast_sqrt(w < 0x1p-8f ? w * (w + 2.0f) : fast_log2(u) * -1.3862943611198906f);
  } else {
    return fast_sqrt(logf(u) * -2.0f);
  }
}

template <class T>
struct Turn {
  T cosine, sine;
};

MULTIMIX_DEVICE float flip_sign(float x, uint32_t sign) {
  return __uint_as_float(__float_as_uint(x) ^ (sign & 0x80000000u));
}

// Of the angle 2 pi word / 2^32: the nearest quarter turn, and polynomials in the exact rest of at most an eighth.
// They are minimax, with absolute errors of 1e-8 and 1e-9 beside the rounding.
template <class T>
MULTIMIX_DEVICE Turn<T> turn(uint32_t word) {
  const T x = T(int32_t(word << 2)) * T(3.6572951981073535e-10);  // 2 pi / 2^34
  const T z = x * x;
  const T s = x + x * (z * (z * (z * -0.0001958800885543738f + 0.00833274899841138f) - 0.16666664667927242f));
  const T c =
      z * (z * (z * (z * 2.4548040536601995e-05f - 0.0013888303643233369f) + 0.04166666466418609f) - 0.5f) + 1.0f;
  const uint32_t quarter = word + 0x20000000u, next = word + 0x60000000u;  // in the two high bits
  const bool odd = (quarter ^ next) & 0x80000000u;
  return {flip_sign(odd ? s : c, next), flip_sign(odd ? c : s, quarter)};
}

// -E is kept rather than E: its sign bit says whether it is accepted.
template <class T>
struct Attempt {
  T y, log_y, lack;
};

MULTIMIX_DEVICE uint32_t sign_bit(float x) { return __float_as_uint(x) >> 31; }

template <Arithmetic arithmetic>
MULTIMIX_DEVICE Attempt<float> attempt_gamma(float x, uint32_t word, const GammaShape<float>& shape) {
  const float t = shape.q * x;
  const float y = 1.0f + t;
  float log_y = binary_logarithm<arithmetic>(y > kTiny ? y : kTiny);
  if constexpr (arithmetic != Arithmetic::kHardware) log_y += (t - (y - 1.0f)) * kLog2E;  // what rounding y left out
  const float difference = log_y - t * (kLog2E - t * (kLog2E / 2 - t * (kLog2E / 3)));
  return {y, log_y, binary_logarithm<arithmetic>(uniform(word)) - shape.d3 * difference};
}

// How variates lie in memory until their row is normalised: floats, or in log space log2 in fixed point, which keeps 4
// bytes and a relative error of 3e-7 (half a unit) over the whole range of alpha.
template <Arithmetic arithmetic>
using Raw = std::conditional_t<arithmetic == Arithmetic::kLogSpace, int32_t, float>;
constexpr int kLogUnits = 1 << 20;
constexpr double kLogBias = 2000;  // log2 G in [-3792, 48)
constexpr int32_t kLogZero = INT32_MIN;

template <Arithmetic arithmetic>
MULTIMIX_DEVICE Raw<arithmetic> raw_zero() {
  return arithmetic == Arithmetic::kLogSpace ? Raw<arithmetic>(kLogZero) : Raw<arithmetic>(0);
}

// The variate of an attempt. Only in log space may concentrations be those of single examples.
template <Arithmetic arithmetic>
MULTIMIX_DEVICE float raw_gamma(const Attempt<float>& k, float exponent, float) {
  return k.y * k.y * k.y * fast_exp2(k.lack * exponent);
}

// 2^(x - top) of fixed-point numbers, whose difference may not fit in 32 bits with a sign.
MULTIMIX_DEVICE float fixed_exp2(int32_t x, int32_t top) {
  const float distance = x < top ? -float(uint32_t(top) - uint32_t(x)) : float(uint32_t(x) - uint32_t(top));
  return fast_exp2(distance * (1.0f / kLogUnits));
}

// log2 x of a positive x in fixed point: exact in the exponent.
MULTIMIX_DEVICE int32_t fixed_log2(float x) {
  const bool small = x < 0x1p-100f;
  const uint32_t bits = __float_as_uint(small ? x * 0x1p40f : x);
  const float part = log2f(__uint_as_float((bits & 0x7FFFFFu) | 0x3F800000u));
  return (int32_t(bits >> 23) - (small ? 167 : 127)) * kLogUnits + int32_t(rintf(part * kLogUnits));
}

}  // namespace multimix
