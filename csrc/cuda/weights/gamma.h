// Gamma variates as one lane of a GPU draws them: Box-Muller, then Marsaglia-Tsang at alpha + 1 (see stream.h).
//
// Logarithms are to base two, as the special function unit takes them. With t = q x and y = 1 + t the slack is
//   E = 3 d (log2 y - log2(e) (t - t^2/2 + t^3/3)) - log2 u;
// an attempt is accepted iff y > 0 and E > 0, and then G = d y^3 2^(-E / alpha). y <= 0 counts as 2^-126: then E < 0.
//
// Where the special function unit rounds, at worst: log2 absolutely by 2^-22 in (1/2, 2) and relatively by 2^-22
// beyond, 2^x relatively by 2^-22, the square root by 2^-23. log2 y enters E times 3 d, and E divided by alpha enters
// G: errors of G of 2e-6 at alpha = 4, 3e-6 at 1/2, and 1e-5 for 3 in 10^5 variates at 0.3, nearly all far below 1e-3.
#pragma once

#include <math.h>

#include <type_traits>

#include "cuda/device/primitives.h"
#include "cuda/host/jobs.h"
#include "stream.h"

namespace multimix {

template <Arithmetic arithmetic>
using Real = std::conditional_t<arithmetic == Arithmetic::kLogSpace, double, float>;

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
  if constexpr (sizeof(T) == 8) {
    return {d * 3, 1 / (sqrt(d) * 3), 1 / alpha};
  } else {
    return {d * 3, rsqrtf(d) * (1.0f / 3), __fdividef(1.0f, alpha)};
  }
}

constexpr float kTiny = 0x1p-126f;

// log2 x. The special function unit's has an absolute error of 2^-22 near one.
template <Arithmetic arithmetic>
MULTIMIX_DEVICE Real<arithmetic> binary_logarithm(Real<arithmetic> x) {
  if constexpr (arithmetic == Arithmetic::kHardware) {
    return fast_log2(x);
  } else if constexpr (arithmetic == Arithmetic::kAccurate) {
    return log2f(x);
  } else {
    return log(x) * kLog2EDouble;
  }
}

// sqrt(-2 ln u) of the uniform of a word: u near one has a small logarithm, whose relative error counts.
template <Arithmetic arithmetic>
MULTIMIX_DEVICE Real<arithmetic> radius(uint32_t word) {
  const float u = uniform(word);
  if constexpr (arithmetic == Arithmetic::kHardware) {
    const float w = 1.0f - u;  // exact
    return fast_sqrt(w < 0x1p-8f ? w * (w + 2.0f) : fast_log2(u) * -1.3862943611198906f);
  } else if constexpr (arithmetic == Arithmetic::kAccurate) {
    return fast_sqrt(logf(u) * -2.0f);
  } else {
    return sqrt(log(double(u)) * -2.0);
  }
}

template <class T>
struct Turn {
  T cosine, sine;
};

MULTIMIX_DEVICE float flip_sign(float x, uint32_t sign) {
  return __uint_as_float(__float_as_uint(x) ^ (sign & 0x80000000u));
}
MULTIMIX_DEVICE double flip_sign(double x, uint32_t sign) { return sign & 0x80000000u ? -x : x; }

// Of the angle 2 pi word / 2^32: the nearest quarter turn, and polynomials in the exact rest of at most an eighth.
// In float32 they are minimax, with absolute errors of 1e-8 and 1e-9 beside the rounding.
template <class T>
MULTIMIX_DEVICE Turn<T> turn(uint32_t word) {
  const T x = T(int32_t(word << 2)) * T(3.6572951981073535e-10);  // 2 pi / 2^34
  const T z = x * x;
  T s, c;
  if constexpr (sizeof(T) == 8) {
    constexpr double sines[] = {-1.0 / 1307674368000, 1.0 / 6227020800, -1.0 / 39916800, 1.0 / 362880,
                                -1.0 / 5040,          1.0 / 120,        -1.0 / 6};
    constexpr double cosines[] = {-1.0 / 87178291200, 1.0 / 479001600, -1.0 / 3628800, 1.0 / 40320,
                                  -1.0 / 720,         1.0 / 24,        -1.0 / 2};
    s = 1.0 / 355687428096000, c = 1.0 / 20922789888000;
#pragma unroll
    for (int i = 0; i < 7; ++i) s = z * s + sines[i], c = z * c + cosines[i];
    s = x + x * (z * s), c = 1 + z * c;
  } else {
    s = x + x * (z * (z * (z * -0.0001958800885543738f + 0.00833274899841138f) - 0.16666664667927242f));
    c = z * (z * (z * (z * 2.4548040536601995e-05f - 0.0013888303643233369f) + 0.04166666466418609f) - 0.5f) + 1.0f;
  }
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
MULTIMIX_DEVICE uint32_t sign_bit(double x) { return uint32_t(uint64_t(__double_as_longlong(x)) >> 63); }

template <Arithmetic arithmetic, class T = Real<arithmetic>>
MULTIMIX_DEVICE Attempt<T> attempt_gamma(T x, uint32_t word, const GammaShape<T>& shape) {
  constexpr T kE = T(kLog2EDouble);
  const T t = shape.q * x;
  const T y = T(1) + t;
  T log_y = binary_logarithm<arithmetic>(y > T(kTiny) ? y : T(kTiny));
  if constexpr (arithmetic != Arithmetic::kHardware) log_y += (t - (y - T(1))) * kE;  // what rounding y left out
  const T difference = log_y - t * (kE - t * (kE / T(2) - t * (kE / T(3))));
  return {y, log_y, binary_logarithm<arithmetic>(T(uniform(word))) - shape.d3 * difference};
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

// The variate of an attempt; in log space zero where y <= 0. log2_d: of the concentration of one example, else zero.
template <Arithmetic arithmetic, class T = Real<arithmetic>>
MULTIMIX_DEVICE Raw<arithmetic> raw_gamma(const Attempt<T>& k, T exponent, T log2_d) {
  if constexpr (arithmetic == Arithmetic::kLogSpace) {
    const double units = (log2_d + 3 * k.log_y + k.lack * exponent + kLogBias) * kLogUnits;
    return k.y > 0 ? int32_t(rint(fmin(fmax(units, -0x1.cp30), 0x1.fffffffcp30))) : kLogZero;
  } else {
    return k.y * k.y * k.y * fast_exp2(k.lack * exponent);
  }
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
