// log, exp and sin/cos of vectors, to about one unit in the last place (float) or two (double), without branches.
//
// Float polynomials are least-squares minimax fits; double ones are Taylor series, which need no fitting.
#pragma once

#include "cpu/simd.h"

namespace multimix {
namespace MULTIMIX_ISA {

// Coefficients in ascending order, Horner's rule.
template <class V, class T, int n>
MULTIMIX_INLINE V polynomial(V x, const T (&c)[n]) {
  V result = splat<V>(c[n - 1]);
#pragma GCC unroll 32
  for (int i = n - 2; i >= 0; --i) result = result * x + c[i];
  return result;
}

// ln x for normal x > 0: x = 2^k m with m in [2/3, 4/3).
MULTIMIX_INLINE F32 log(F32 x) {
  constexpr float p[] = {0x1.55551p-2f,  -0x1.fffe68p-3f, 0x1.99cce8p-3f, -0x1.55b688p-3f,
                         0x1.1f04fap-3f, -0x1.f05c36p-4f, 0x1.1d9d7cp-3f, -0x1.0dee1ep-3f};
  const I32 bits = (I32)x;
  const I32 k = (I32)((U32)bits - 0x3F2AAAABu) >> 23;
  const F32 f = (F32)((U32)bits - ((U32)k << 23)) - 1.0f;
  const F32 kf = __builtin_convertvector(k, F32);
  const F32 f2 = f * f;
  const F32 tail = f2 * (f * polynomial(f, p) - 0.5f) + kf * -0x1.05c610p-29f;  // ln 2 = 0x1.62e43p-1 - 0x1.05c61p-29
  return kf * 0x1.62E430p-1f + (f + tail);
}

MULTIMIX_INLINE F64 log(F64 x) {
  // ln m = 2 artanh s with s = (m - 1) / (m + 1), |s| <= 1/5.
  constexpr double p[] = {1.0 / 3,  1.0 / 5,  1.0 / 7,  1.0 / 9,  1.0 / 11,
                          1.0 / 13, 1.0 / 15, 1.0 / 17, 1.0 / 19, 1.0 / 21};
  const I64 bits = (I64)x;
  const I64 k = (I64)((U64)bits - 0x3FE5555555555555ull) >> 52;
  const F64 f = (F64)((U64)bits - ((U64)k << 52)) - 1.0;
  const F64 kf = __builtin_convertvector(k, F64);
  const F64 s = f / (f + 2.0), z = s * s;
  const F64 half_square = f * f * 0.5;
  // 2 artanh s = f - f^2/2 + s (f^2/2 + 2 z P(z)): f is exact, so the sum keeps its relative accuracy near m = 1.
  const F64 tail = s * (half_square + 2.0 * z * polynomial(z, p)) - half_square + kf * 0x1.ef35793c76730p-45;
  return kf * 0x1.62e42fefa3800p-1 + (f + tail);
}

// e^x from -87.33 to 88 (float), -708.3 to 709 (double), and for NaN; anything elsewhere.
MULTIMIX_INLINE F32 exp_in_range(F32 x) {
  constexpr float p[] = {0x1p-1f, 0x1.55549p-3f, 0x1.55545ep-5f, 0x1.123b4ep-7f, 0x1.6db3ep-10f};
  const F32 magic = splat<F32>(0x1.8p23f);  // adding it rounds to an integer, in the low bits
  const F32 shifted = x * 0x1.715476p0f + magic;
  const F32 n = shifted - magic;
  const F32 r = (x - n * 0x1.62E4p-1f) - n * 0x1.7F7D1Cp-20f;
  const F32 e = 1.0f + (r + r * r * polynomial(r, p));
  return (F32)((U32)e + ((U32)shifted << 23));
}

MULTIMIX_INLINE F64 exp_in_range(F64 x) {
  constexpr double p[] = {1.0 / 2,         1.0 / 6,          1.0 / 24,         1.0 / 120,     1.0 / 720,
                          1.0 / 5040,      1.0 / 40320,      1.0 / 362880,     1.0 / 3628800, 1.0 / 39916800,
                          1.0 / 479001600, 1.0 / 6227020800, 1.0 / 87178291200};
  const F64 magic = splat<F64>(0x1.8p52);
  const F64 shifted = x * 0x1.71547652b82fep0 + magic;
  const F64 n = shifted - magic;
  const F64 r = (x - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b3ap-40;
  const F64 e = 1.0 + (r + r * r * polynomial(r, p));
  return (F64)((U64)e + ((U64)shifted << 52));
}

// e^x; results below the normal range become the smallest normal number, those beyond e^88 (float), e^709 (double)
// that.
MULTIMIX_INLINE F32 exp(F32 x) {
  x = x < -87.33f ? splat<F32>(-87.33f) : x;  // keeps NaN
  return exp_in_range(x > 88.0f ? splat<F32>(88.0f) : x);
}

MULTIMIX_INLINE F64 exp(F64 x) {
  x = x < -708.3 ? splat<F64>(-708.3) : x;
  return exp_in_range(x > 709.0 ? splat<F64>(709.0) : x);
}

// e^x for x <= 0; exactly zero where it is below 2^-96 (float), 2^-958 (double), so that no multiple of it by a
// moderate factor is denormal.
MULTIMIX_INLINE F32 exp_or_zero(F32 x) { return x < -66.5f ? F32{} : exp_in_range(x); }
MULTIMIX_INLINE F64 exp_or_zero(F64 x) { return x < -664.0 ? F64{} : exp_in_range(x); }

// cos and sin of 2 pi w / 2^32, from the exact fraction: w = 2^30 quadrant + rest, |rest| <= 2^29.
template <class F, class I>
MULTIMIX_INLINE void rotate(I quadrant, F c, F s, F& cosine, F& sine) {
  const auto swap = (quadrant & 1) != 0;
  const auto a = swap ? s : c, b = swap ? c : s;
  cosine = ((quadrant + 1) & 2) != 0 ? -a : a;
  sine = (quadrant & 2) != 0 ? -b : b;
}

MULTIMIX_INLINE void sincos_turn(U32 w, F32& cosine, F32& sine) {
  constexpr float ps[] = {-0x1.555546p-3f, 0x1.110762p-7f, -0x1.994e8ep-13f};
  constexpr float pc[] = {0x1.55554ap-5f, -0x1.6c0c98p-10f, 0x1.9a053ap-16f};
  const U32 quadrant = (w + 0x20000000u) >> 30;
  const F32 a = __builtin_convertvector((I32)(w - (quadrant << 30)), F32) * 0x1.921FB6p-30f;
  const F32 z = a * a;
  const F32 s = a + a * z * polynomial(z, ps), c = 1.0f - (0.5f * z - z * z * polynomial(z, pc));
  rotate((I32)quadrant, c, s, cosine, sine);
}

MULTIMIX_INLINE void sincos_turn(U64 w, F64& cosine, F64& sine) {
  constexpr double ps[] = {-1.0 / 6,        1.0 / 120,        -1.0 / 5040,          1.0 / 362880,
                           -1.0 / 39916800, 1.0 / 6227020800, -1.0 / 1307674368000, 1.0 / 355687428096000};
  constexpr double pc[] = {1.0 / 24,        -1.0 / 720,         1.0 / 40320,          -1.0 / 3628800,
                           1.0 / 479001600, -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000};
  w &= 0xFFFFFFFFull;
  const U64 quadrant = (w + 0x20000000ull) >> 30;
  const F64 a = __builtin_convertvector((I64)(w - (quadrant << 30)), F64) * 0x1.921fb54442d18p-30;
  const F64 z = a * a;
  const F64 s = a + a * z * polynomial(z, ps), c = 1.0 - (0.5 * z - z * z * polynomial(z, pc));
  rotate((I64)(quadrant & 3), c, s, cosine, sine);
}

// The functions as stream.h takes them.
struct VectorMath {
  template <class V>
  static MULTIMIX_INLINE V product(V a, uint32_t b) {
    return MULTIMIX_ISA::product(a, b);
  }
  template <class V>
  static MULTIMIX_INLINE V log(V x) {
    return MULTIMIX_ISA::log(x);
  }
  template <class V>
  static MULTIMIX_INLINE V exp(V x) {
    return MULTIMIX_ISA::exp(x);
  }
  template <class V>
  static MULTIMIX_INLINE V max(V a, V b) {
    return MULTIMIX_ISA::max(a, b);
  }
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
