// Gamma variates in log space, for concentrations that are small or that only the device knows (see gamma.h and
// stream.h for the formulas): pairs of floats where float32 is too coarse.
//
// To base e here, with t = q x and y = 1 + t, E = 3 d (ln y - t + t^2/2 - t^3/3) - ln u, and log2 G = log2 d +
// 3 log2 y - E log2(e) / alpha is wanted to 3e-6. As alpha may be 0.01, E is wanted to 2e-8. Its derivative by x is
// -3 d q t^3 / y, so that x is wanted to 1e-9. Both are pairs, whose small terms are polynomials in float32. Errors of
// G are mostly 3e-7, where fixed point rounds; at 0.01 they exceed 1e-6 for 5 in 10^5 variates, and 5e-6 for 3 in 10^7
// of small y.
#pragma once

#include "cuda/weights/float_pair.h"
#include "cuda/weights/gamma.h"

namespace multimix {

// `exponent` is log2(e) / alpha in units of fixed point.
template <>
MULTIMIX_DEVICE GammaShape<FloatPair> gamma_shape(FloatPair alpha) {
  const FloatPair d3 = alpha * 3.0f + FloatPair{2.0f, 0.0f};
  constexpr FloatPair root = pair_of(0.57735026918962576451), units = pair_of(kLogUnits * kLog2EDouble);
  return {d3, normalised(inverse_root(d3) * root), normalised(reciprocal(alpha) * units)};
}

template <>
MULTIMIX_DEVICE FloatPair concentration<FloatPair>(const Draw& draw, float u) {
  const FloatPair low = split(draw.low), high = split(draw.high);
  return low + (high + -low) * u;
}

template <>
MULTIMIX_DEVICE FloatPair radius<Arithmetic::kLogSpace>(uint32_t word) {
  const LogarithmParts u = logarithm(uniform(word));
  FloatPair sum = ordered_sum(__fmul_rn(u.exponent, kLn2High), u.high);
  sum = ordered_sum(sum.high, __fadd_rn(sum.low, __fmaf_rn(u.exponent, kLn2Low, u.low)));
  return square_root({-2.0f * sum.high, -2.0f * sum.low});
}

MULTIMIX_DEVICE FloatPair flip_sign(FloatPair x, uint32_t sign) {
  return {flip_sign(x.high, sign), flip_sign(x.low, sign)};
}

// Of the square of an angle, in the distance z from the middle of its range: minimax to 1e-10, whose third and later
// terms are at most 0.004.
MULTIMIX_DEVICE FloatPair of_square(FloatPair z, FloatPair c0, FloatPair c1, float c2, float c3, float c4) {
  const FloatPair linear = c1 * z, sum = ordered_sum(c0.high, linear.high);
  const float rest = __fmaf_rn(z.high * z.high, (c4 * z.high + c3) * z.high + c2, linear.low);
  return ordered_sum(sum.high, __fadd_rn(sum.low, __fadd_rn(rest, c0.low)));
}

template <>
MULTIMIX_DEVICE Turn<FloatPair> turn<FloatPair>(uint32_t word) {
  const uint32_t rest = word << 2;
  const FloatPair v{float(int32_t(rest & ~0xFFu)) * 0x1p-31f, float(rest & 0xFFu) * 0x1p-31f};  // eighths of a turn
  const FloatPair square = v * v, less = ordered_sum(-0.5f, square.high);
  const FloatPair z = ordered_sum(less.high, __fadd_rn(less.low, square.low));
  constexpr FloatPair c0 = pair_of(0.8497104919695335), c1 = pair_of(-0.29281349897073505);
  constexpr FloatPair s0 = pair_of(0.7456434534506333), s1 = pair_of(-0.07828239360430315);
  const FloatPair c = of_square(z, c0, c1, 0.01537071168422699f, -0.00031887899967841804f, 3.5297971407999285e-06f);
  const FloatPair s =
      v * of_square(z, s0, s1, 0.002435998059809208f, -3.5954399209003896e-05f, 3.0899667535777553e-07f);
  const uint32_t quarter = word + 0x20000000u, next = word + 0x60000000u;
  const bool odd = (quarter ^ next) & 0x80000000u;
  return {flip_sign(odd ? s : c, next), flip_sign(odd ? c : s, quarter)};
}

// -E.
template <>
struct Attempt<FloatPair> {
  float y, log_y;
  FloatPair lack;
};

MULTIMIX_DEVICE uint32_t sign_bit(FloatPair x) { return sign_bit(__fadd_rn(x.high, x.low)); }

template <Arithmetic arithmetic>
MULTIMIX_DEVICE Attempt<FloatPair> attempt_gamma(FloatPair x, uint32_t word, const GammaShape<FloatPair>& shape) {
  const FloatPair t = shape.q * x;
  const float y = __fadd_rn(1.0f, t.high);
  const float lost = __fadd_rn(__fsub_rn(t.high, __fsub_rn(y, 1.0f)), t.low);  // what rounding y left out
  const LogarithmParts ln_y = logarithm(FloatPair{y > kTiny ? y : kTiny, y > kTiny ? lost : 0.0f});

  // ln y - t + t^2/2 - t^3/3 of t.high, and its change by t.low but for what is in ln y.
  constexpr FloatPair third = pair_of(1.0 / 3);
  constexpr float start = 24;  // above 2.75^3 / 3
  const FloatPair square = exact_product(t.high, t.high), cube = square * (third * t.high);
  ErrorFreeSum sum{__fmaf_rn(ln_y.exponent, kLn2High, start), __fmaf_rn(ln_y.exponent, kLn2Low, ln_y.low)};
  sum.low = __fmaf_rn(0.5f, square.low, __fsub_rn(sum.low, cube.low));
  sum.low = __fmaf_rn(-t.low, __fmaf_rn(t.high, __fsub_rn(t.high, 1.0f), 1.0f), sum.low);
  sum.add(ln_y.high), sum.add(-t.high), sum.add(0.5f * square.high), sum.add(-cube.high);
  const FloatPair dip = shape.d3 * sum.above(start);

  const LogarithmParts ln_u = logarithm(uniform(word));
  constexpr float most = 96;  // above -ln u, and dips that are accepted
  ErrorFreeSum lack{__fmaf_rn(ln_u.exponent, kLn2High, most), __fmaf_rn(ln_u.exponent, kLn2Low, ln_u.low)};
  lack.low = __fsub_rn(lack.low, dip.low);
  lack.add(ln_u.high), lack.add(-dip.high);
  return {y, __fmaf_rn(ln_y.exponent, kLn2, ln_y.high + ln_y.low), lack.above(most)};
}

// log2 of a variate in fixed point, zero where y <= 0. log2_d: of the concentration of one example, else zero.
template <Arithmetic arithmetic>
MULTIMIX_DEVICE int32_t raw_gamma(const Attempt<FloatPair>& k, FloatPair exponent, float log2_d) {
  // Adding rounds to multiples of 2^10 units, whose number is then in the low bits.
  constexpr float kRounds = 0x1.8p33f;
  constexpr uint32_t kBias = uint32_t(int32_t(kLogBias * kLogUnits)) - (0x50400000u << 10);
  const FloatPair units = k.lack * exponent;
  const float high = fminf(units.high, 31.0f * kLogUnits);  // of what is rejected: the sum stays below 2^31
  const float rounded = __fadd_rn(high, kRounds), rest = __fsub_rn(high, __fsub_rn(rounded, kRounds));
  const float low = rest + (units.low + (log2_d + 3.0f * kLog2E * k.log_y) * kLogUnits);
  const uint32_t sum = (__float_as_uint(rounded) << 10) + kBias + uint32_t(__float2int_rn(low));
  return k.y > 0 ? int32_t(sum) : kLogZero;
}

}  // namespace multimix
