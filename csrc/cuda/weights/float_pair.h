// Numbers of about 46 bits as the sum of two floats, of which the lower rounds the higher: for what float32 is too
// coarse for, on GPUs whose units for float64 are few (1/64 of those for float32 in most that are not for data
// centres).
//
// The intrinsics round where they stand: no compiler may fuse or reorder them. Costs are in lane-instructions.
// Sources: Dekker, "A floating-point technique for extending the available precision" (Numer. Math. 18, 1971); Ogita,
// Rump and Oishi, "Accurate sum and dot product" (SIAM J. Sci. Comput. 26, 2005).
#pragma once

#include "cuda/device/primitives.h"

namespace multimix {

struct FloatPair {
  float high, low;
};

// Of a constant.
MULTIMIX_DEVICE constexpr FloatPair pair_of(double x) { return {float(x), float(x - double(float(x)))}; }

// a + b and what its rounding lost, exactly: 3, where |a| >= |b| or a is zero.
MULTIMIX_DEVICE FloatPair ordered_sum(float a, float b) {
  const float sum = __fadd_rn(a, b);
  return {sum, __fsub_rn(b, __fsub_rn(sum, a))};
}

// The same of any two: 6.
MULTIMIX_DEVICE FloatPair exact_sum(float a, float b) {
  const float sum = __fadd_rn(a, b), of_b = __fsub_rn(sum, a), of_a = __fsub_rn(sum, of_b);
  return {sum, __fadd_rn(__fsub_rn(a, of_a), __fsub_rn(b, of_b))};
}

// a b and what its rounding lost, exactly: 2.
MULTIMIX_DEVICE FloatPair exact_product(float a, float b) {
  const float product = __fmul_rn(a, b);
  return {product, __fmaf_rn(a, b, -product)};
}

// The high float as the nearest of the sum: operations below need that of their arguments but for a few units.
MULTIMIX_DEVICE FloatPair normalised(FloatPair x) { return ordered_sum(x.high, x.low); }

MULTIMIX_DEVICE FloatPair operator-(FloatPair x) { return {-x.high, -x.low}; }

MULTIMIX_DEVICE FloatPair operator+(FloatPair a, FloatPair b) {
  const FloatPair sum = exact_sum(a.high, b.high);
  return normalised({sum.high, __fadd_rn(sum.low, __fadd_rn(a.low, b.low))});
}

// Relative errors of about 2^-46: 4.
MULTIMIX_DEVICE FloatPair operator*(FloatPair a, FloatPair b) {
  const FloatPair product = exact_product(a.high, b.high);
  return {product.high, __fmaf_rn(a.low, b.high, __fmaf_rn(a.high, b.low, product.low))};
}
MULTIMIX_DEVICE FloatPair operator*(FloatPair a, float b) {
  const FloatPair product = exact_product(a.high, b);
  return {product.high, __fmaf_rn(a.low, b, product.low)};
}

// Roots and quotients are one step of Newton's from the special function unit's.
MULTIMIX_DEVICE FloatPair reciprocal(FloatPair x) {
  const float y = fast_reciprocal(x.high);
  return {y, __fmul_rn(y, __fmaf_rn(-x.low, y, __fmaf_rn(-x.high, y, 1.0f)))};
}

// Of zero: zero.
MULTIMIX_DEVICE FloatPair square_root(FloatPair x) {
  const float inverse = fast_inverse_root(fmaxf(x.high, 0x1p-100f)), root = __fmul_rn(x.high, inverse);
  return {root, __fmul_rn(__fadd_rn(__fmaf_rn(-root, root, x.high), x.low), 0.5f * inverse)};
}

MULTIMIX_DEVICE FloatPair inverse_root(FloatPair x) {
  const float y = fast_inverse_root(x.high);
  const FloatPair square = exact_product(y, y);
  const float error = __fmaf_rn(-x.high, square.low, __fmaf_rn(-x.high, square.high, 1.0f));
  return {y, __fmul_rn(0.5f * y, __fmaf_rn(-x.low, square.high, error))};
}

// A double in [2^-60, 2^60], from its bits: the first 24 of its fraction, and the other 29.
MULTIMIX_DEVICE FloatPair split(double x) {
  const uint64_t bits = uint64_t(__double_as_longlong(x));
  const uint32_t high = uint32_t(bits >> 29) - (896u << 23), unit = (high & 0x7F800000u) - (52u << 23);
  return {__uint_as_float(high), float(uint32_t(bits) & 0x1FFFFFFFu) * __uint_as_float(unit)};
}

// A sum of floats with what its rounding loses: 4 a term. It starts from a constant above all that is added to it,
// which is taken off at the end: its terms need no order.
struct ErrorFreeSum {
  float high, low;

  MULTIMIX_DEVICE void add(float x) {
    const FloatPair sum = ordered_sum(high, x);
    high = sum.high, low = __fadd_rn(low, sum.low);
  }
  MULTIMIX_DEVICE FloatPair above(float start) const { return {__fsub_rn(high, start), low}; }
};

// ln x = exponent ln 2 + high + low. The high part of ln 2 has 17 bits: times an exponent it is exact.
struct LogarithmParts {
  float exponent, high, low;
};
constexpr float kLn2High = 0x1.62e4p-1f, kLn2Low = 1.428606765330187e-06f;

// With x = 2^exponent (1 + f) and s = 2 f / (2 + f) it is exponent ln 2 + s + s^3 / 12 + s^5 / 80 + ..., where
// |s| <= 0.343: what follows s is a minimax polynomial in float32. An error of 6e-10 at most, and less near one; 22,
// and 5 more for the lower float.
template <bool paired>
MULTIMIX_DEVICE LogarithmParts logarithm_of(FloatPair x) {
  const uint32_t bits = __float_as_uint(x.high);
  const int32_t exponent = int32_t(bits - 0x3F3504F3u) >> 23;  // 1 + f from the root of 1/2 on
  const float f = __fsub_rn(__uint_as_float(bits - (uint32_t(exponent) << 23)), 1.0f);
  const FloatPair denominator = ordered_sum(1.0f, 0.5f * f);
  const float inverse = fast_reciprocal(denominator.high), s = __fmul_rn(f, inverse), w = s * s;
  float rest = __fmaf_rn(-s, denominator.high, f), below = denominator.low;
  if constexpr (paired) {
    const float low = __fmul_rn(x.low, __uint_as_float(uint32_t(127 - exponent) << 23));
    rest = __fadd_rn(rest, low), below = __fmaf_rn(0.5f, low, below);
  }
  const float error = __fmaf_rn(-s, below, rest) * inverse;
  const float tail = ((0.0004622818378265947f * w + 0.0022290674969553947f) * w + 0.012500135228037834f) * w;
  return {float(exponent), s, __fmaf_rn(s * w, tail + 0.0833333283662796f, error * (0.25f * w + 1.0f))};
}
MULTIMIX_DEVICE LogarithmParts logarithm(FloatPair x) { return logarithm_of<true>(x); }
MULTIMIX_DEVICE LogarithmParts logarithm(float x) { return logarithm_of<false>({x, 0.0f}); }

}  // namespace multimix
