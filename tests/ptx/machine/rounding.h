// Rounding of exact results, and the formats that C++ has no type for.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

namespace ptx {

enum class Round : uint8_t { Nearest, Zero, Down, Up, NearestAway };

// NaNs have one form: PTX keeps no payload.
inline float canonical(float x) { return x == x ? x : std::bit_cast<float>(0x7fffffffu); }
inline double canonical(double x) { return x == x ? x : std::bit_cast<double>(0x7ff8000000000000u); }

inline float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }
template <class T>
inline T saturate(T x) {  // NaN gives 0
  return x > T{0} ? (x < T{1} ? x : T{1}) : T{0};
}

// A sum in double rounded to odd: a later rounding to less than 52 bits is that of the exact sum.
inline double add_to_odd(double a, double b) {
  const double sum = a + b, part = sum - a;
  const double error = (a - (sum - part)) + (b - part);
  const auto bits = std::bit_cast<uint64_t>(sum);
  if (!(error != 0) || !std::isfinite(sum) || (bits & 1)) return sum;
  const bool away = (error > 0) == (sum > 0);
  return std::bit_cast<double>(away ? bits + 1 : bits - 1);
}

// To a format of `fraction` bits of fraction, whose least normal number is 2^least and whose largest is `largest`.
inline double round_to(double x, int fraction, int least, double largest, Round mode) {
  if (!std::isfinite(x) || x == 0) return x;
  const int exponent = std::max(std::ilogb(x), least);
  const double unit = std::ldexp(1.0, exponent - fraction);
  const double scaled = x / unit;  // exact
  double whole;
  switch (mode) {
    case Round::Nearest: whole = std::nearbyint(scaled); break;
    case Round::Zero: whole = std::trunc(scaled); break;
    case Round::Down: whole = std::floor(scaled); break;
    case Round::Up: whole = std::ceil(scaled); break;
    default: whole = std::round(scaled); break;
  }
  const double result = std::copysign(whole * unit, x);
  if (std::fabs(result) <= largest) return result;
  const bool to_largest = mode == Round::Zero || (mode == Round::Down && x > 0) || (mode == Round::Up && x < 0);
  return std::copysign(to_largest ? largest : std::numeric_limits<double>::infinity(), x);
}

inline float round_to_float(double x, Round mode) {
  if (mode == Round::Nearest) return static_cast<float>(x);
  return static_cast<float>(round_to(x, 23, -126, std::numeric_limits<float>::max(), mode));
}

inline float from_half(uint16_t bits) { return static_cast<float>(std::bit_cast<_Float16>(bits)); }
inline float from_bfloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

inline uint16_t to_half(double x, Round mode = Round::Nearest) {
  if (x != x) return 0x7fff;
  return std::bit_cast<uint16_t>(static_cast<_Float16>(static_cast<float>(round_to(x, 10, -14, 65504, mode))));
}
inline uint16_t to_bfloat(double x, Round mode = Round::Nearest) {
  if (x != x) return 0x7fff;
  return std::bit_cast<uint32_t>(static_cast<float>(round_to(x, 7, -126, 0x1.fep127, mode))) >> 16;
}

// The same to nearest, from float, without branches.
inline uint16_t half_of(float x) {
  return x == x ? std::bit_cast<uint16_t>(static_cast<_Float16>(x)) : uint16_t{0x7fff};
}
inline uint16_t bfloat_of(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fff;
}

}  // namespace ptx
