#include "tensor_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#pragma GCC optimize("O3")  // the loops over four columns are to vectorise
#if defined(__x86_64__)
#define PTX_VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define PTX_VECTORS
#endif

namespace ptx {
namespace {

constexpr int kBlock = 4;          // columns that are computed together
constexpr int kMost = 16;          // elements along k
constexpr int kNoExponent = -126;  // of zero
constexpr int kInfinite = 128;     // exponent of infinities and NaN
constexpr uint32_t kNaN = 0x7fffffff;

uint32_t bits_of(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return bits;
}

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// Significands of subnormal numbers are not shifted: they have the least exponent of their format.
int exponent_of(float x, int least) {
  const int biased = bits_of(x) >> 23 & 0xff, floor = x == 0.0f ? kNoExponent : least;
  return std::max(biased - 127, floor);
}

// Four columns.
using Floats = float __attribute__((vector_size(4 * kBlock)));
using Ints = int32_t __attribute__((vector_size(4 * kBlock)));
using Doubles = double __attribute__((vector_size(8 * kBlock)));
using Longs = int64_t __attribute__((vector_size(8 * kBlock)));

#define truncated(x) __builtin_convertvector(__builtin_convertvector(x, Ints), Doubles)

struct Columns {
  Doubles values[kMost];
  Ints exponents[kMost];
  bool infinite;
};

struct Row {
  double values[kMost];
  int exponents[kMost];
  bool infinite;
};

// d[j] += the products of `terms` elements from `first` on.
PTX_VECTORS void add(const Row& a, const Columns& b, int first, int terms, int fraction_bits, float* d) {
  Floats before;
  std::memcpy(&before, d, sizeof before);
  Ints bits;
  std::memcpy(&bits, d, sizeof bits);
  Ints largest = (bits >> 23 & 0xff) - 127;
  largest = largest > -126 ? largest : -126;
  for (int k = first; k < first + terms; ++k) {
    const Ints exponents = a.exponents[k] + b.exponents[k];
    largest = exponents > largest ? exponents : largest;
  }
  const Longs powers = __builtin_convertvector(1023 + fraction_bits - largest, Longs) << 52;
  Doubles scale;
  std::memcpy(&scale, &powers, sizeof scale);
  Doubles sum = truncated(__builtin_convertvector(before, Doubles) * scale);
  for (int k = first; k < first + terms; ++k) sum += truncated(a.values[k] * b.values[k] * scale);
  sum /= scale;
  // Rounded to nearest, and back by one if that is beyond.
  const Floats nearest = __builtin_convertvector(sum, Floats);
  const Doubles there = __builtin_convertvector(nearest, Doubles), size = sum < 0.0 ? -sum : sum;
  const Longs beyond = ((there < 0.0 ? -there : there) > size) & (size < 0x1p128);
  std::memcpy(&bits, &nearest, sizeof bits);
  bits += __builtin_convertvector(beyond, Ints);
  std::memcpy(d, &bits, sizeof bits);
}

// Where an infinity or NaN takes part: the sum of doubles, as no product overflows.
bool is_special(const Row& a, const Columns& b, int first, int terms, int j, float d, float* out) {
  bool finite = std::isfinite(d);
  double sum = d;
  for (int k = first; k < first + terms; ++k) {
    finite &= std::isfinite(a.values[k]) && std::isfinite(b.values[k][j]);
    sum += a.values[k] * b.values[k][j];
  }
  if (!finite) *out = std::isnan(sum) ? float_of(kNaN) : float(sum);
  return !finite;
}

void add_all(const Row& a, const Columns& b, int first, int terms, int fraction_bits, float* d) {
  const bool special =
      a.infinite || b.infinite || std::any_of(d, d + kBlock, [](float x) { return !std::isfinite(x); });
  float before[kBlock];
  std::copy(d, d + kBlock, before);
  add(a, b, first, terms, fraction_bits, d);
  for (int j = 0; special && j < kBlock; ++j) is_special(a, b, first, terms, j, before[j], &d[j]);
}

}  // namespace

FusedSum fused_sum(int architecture, Element element, int k) {
  const bool halves = architecture < 90 && k == (element == Element::TF32 ? 8 : 16);  // Ampere and Ada add twice
  return {halves ? k / 2 : k, architecture < 90 ? 24 : 25};
}

float element_value(Element element, uint32_t bits) {
  if (element == Element::TF32) return float_of(bits & 0xffffe000);
  if (element == Element::BF16) return float_of(bits << 16);
  const uint32_t sign = (bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3ff;
  if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
  if (exponent != 0) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = float(fraction) * 0x1p-24f;
  return sign ? -magnitude : magnitude;
}

PTX_VECTORS void multiply(FusedSum how, Element element, int m, int n, int k, const float* a, const float* b,
                          float* d) {
  const int least = element == Element::F16 ? -14 : -126;
  Row rows[kMost];
  for (int i = 0; i < m; ++i) {
    rows[i].infinite = false;
    for (int e = 0; e < k; ++e) {
      rows[i].values[e] = a[i * k + e];
      rows[i].exponents[e] = exponent_of(a[i * k + e], least);
      rows[i].infinite |= rows[i].exponents[e] >= kInfinite;
    }
  }
  for (int j = 0; j < n; j += kBlock) {
    Columns columns;
    int largest = 0;
    for (int e = 0; e < k; ++e)
      for (int c = 0; c < kBlock; ++c) {
        columns.values[e][c] = b[e * n + j + c];
        columns.exponents[e][c] = exponent_of(b[e * n + j + c], least);
        largest = std::max(largest, columns.exponents[e][c]);
      }
    columns.infinite = largest >= kInfinite;
    for (int i = 0; i < m; ++i)
      for (int first = 0; first < k; first += how.terms)
        add_all(rows[i], columns, first, how.terms, how.fraction_bits, d + i * n + j);
  }
}

}  // namespace ptx
