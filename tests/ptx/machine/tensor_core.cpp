#include "tensor_core.h"

#include <cmath>
#include <cstring>

namespace ptx {
namespace {

constexpr int kBlock = 4;          // columns that are computed together
constexpr int kRows = 4;           // rows
constexpr int kMost = 16;          // elements along k
constexpr int kNoExponent = -126;  // of zero
constexpr int kInfinite = 128;     // of infinities and NaN
constexpr uint32_t kNaN = 0x7fffffff;

using Floats = float __attribute__((vector_size(4 * kBlock)));
using Ints = int32_t __attribute__((vector_size(4 * kBlock)));
using Doubles = double __attribute__((vector_size(8 * kBlock)));
using Longs = int64_t __attribute__((vector_size(8 * kBlock)));

float float_of(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

template <class To, class From>
[[gnu::always_inline]] inline void copy_bits(To& to, const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  std::memcpy(&to, &from, sizeof to);
}

// Of x; significands of subnormal numbers are not shifted: they have the least exponent of their format.
[[gnu::always_inline]] inline Ints exponents_of(Floats x, int least) {
  Ints bits;
  copy_bits(bits, x);
  const Ints exponents = (bits >> 23 & 0xff) - 127, floor = x == 0.0f ? Ints{} + kNoExponent : Ints{} + least;
  return exponents > floor ? exponents : floor;
}

[[gnu::always_inline]] inline bool any(Ints x) { return (x[0] | x[1] | x[2] | x[3]) != 0; }

// k by four elements.
struct Columns {
  Doubles values[kMost];
  Ints exponents[kMost];
  bool infinite;
};

// k elements.
struct Row {
  double values[kMost];
  int32_t exponents[kMost];
  bool infinite;
};

[[gnu::always_inline]] inline Doubles integers(Doubles x) {
  return __builtin_convertvector(__builtin_convertvector(x, Ints), Doubles);
}

// To float32: rounded to nearest, and back by one if that is beyond.
[[gnu::always_inline]] inline Floats truncated(Doubles x) {
  const Floats nearest = __builtin_convertvector(x, Floats);
  const Doubles there = __builtin_convertvector(nearest, Doubles);
  const Doubles size = x < 0.0 ? -x : x, size_there = there < 0.0 ? -there : there;
  const Longs beyond = (size_there > size) & (size < 0x1p128);
  Ints bits;
  copy_bits(bits, nearest);
  bits += __builtin_convertvector(beyond, Ints);
  Floats result;
  copy_bits(result, bits);
  return result;
}

// Rows of d, `stride` elements apart, += the products of the elements from `first` on: several rows, as one waits for
// its own results. False, and nothing, if an infinity or NaN takes part.
template <int terms, int rows>
[[gnu::always_inline]] inline bool add(const Row* a, const Columns& b, int first, int fraction_bits, float* d,
                                       int stride) {
  Floats before[rows];
  Ints largest[rows];
  bool infinite = b.infinite;
  Ints infinite_rows = {};
  for (int r = 0; r < rows; ++r) {
    std::memcpy(&before[r], d + r * stride, sizeof before[r]);
    largest[r] = exponents_of(before[r], -126);
    infinite |= a[r].infinite;
    infinite_rows |= largest[r] == kInfinite;
  }
  if (infinite || any(infinite_rows)) return false;
  for (int k = first; k < first + terms; ++k)
    for (int r = 0; r < rows; ++r) {
      const Ints exponents = a[r].exponents[k] + b.exponents[k];
      largest[r] = exponents > largest[r] ? exponents : largest[r];
    }
  Doubles scale[rows], back[rows], sum[rows];
  for (int r = 0; r < rows; ++r) {
    const Longs powers = __builtin_convertvector(fraction_bits - largest[r], Longs);
    copy_bits(scale[r], (1023 + powers) << 52);
    copy_bits(back[r], (1023 - powers) << 52);
    sum[r] = integers(__builtin_convertvector(before[r], Doubles) * scale[r]);
  }
  for (int k = first; k < first + terms; ++k)
    for (int r = 0; r < rows; ++r) sum[r] += integers(a[r].values[k] * b.values[k] * scale[r]);
  for (int r = 0; r < rows; ++r) {
    const Floats after = truncated(sum[r] * back[r]);
    std::memcpy(d + r * stride, &after, sizeof after);
  }
  return true;
}

// Where one takes part: the sum of doubles, in which no product overflows.
template <int terms>
void add_special(const Row& a, const Columns& b, int first, int fraction_bits, float* d) {
  for (int j = 0; j < kBlock; ++j) {
    Row row = a;
    Columns column = b;
    float alone[kBlock] = {d[j], d[j], d[j], d[j]};
    double sum = d[j];
    row.infinite = column.infinite = false;
    for (int k = first; k < first + terms; ++k) {
      column.values[k] = Doubles{} + b.values[k][j];
      column.exponents[k] = Ints{} + b.exponents[k][j];
      column.infinite |= a.exponents[k] == kInfinite || b.exponents[k][j] == kInfinite;
      sum += a.values[k] * b.values[k][j];
    }
    if (add<terms, 1>(&row, column, first, fraction_bits, alone, 0))
      d[j] = alone[0];
    else
      d[j] = std::isnan(sum) ? float_of(kNaN) : float(sum);
  }
}

template <int terms>
[[gnu::always_inline]] inline void multiply_with(int fraction_bits, int least, int m, int n, int k, const float* a,
                                                 const float* b, float* d) {
  Row rows[kMost];
  for (int i = 0; i < m; ++i) {
    Ints infinite = {};
    for (int e = 0; e < k; e += kBlock) {
      Floats x;
      std::memcpy(&x, a + i * k + e, sizeof x);
      const Doubles values = __builtin_convertvector(x, Doubles);
      const Ints exponents = exponents_of(x, least);
      std::memcpy(rows[i].values + e, &values, sizeof values);
      std::memcpy(rows[i].exponents + e, &exponents, sizeof exponents);
      infinite |= exponents == kInfinite;
    }
    rows[i].infinite = any(infinite);
  }
  for (int j = 0; j < n; j += kBlock) {
    Columns columns;
    Ints infinite = {};
    for (int e = 0; e < k; ++e) {
      Floats x;
      std::memcpy(&x, b + e * n + j, sizeof x);
      columns.values[e] = __builtin_convertvector(x, Doubles);
      columns.exponents[e] = exponents_of(x, least);
      infinite |= columns.exponents[e] == kInfinite;
    }
    columns.infinite = any(infinite);
    for (int i = 0; i < m; i += kRows)
      for (int first = 0; first < k; first += terms)
        if (!add<terms, kRows>(rows + i, columns, first, fraction_bits, d + i * n + j, n))
          for (int r = i; r < i + kRows; ++r) add_special<terms>(rows[r], columns, first, fraction_bits, d + r * n + j);
  }
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

void multiply(FusedSum how, Element element, int m, int n, int k, const float* a, const float* b, float* d) {
  const int least = element == Element::F16 ? -14 : -126;
  if (how.terms == 4)
    multiply_with<4>(how.fraction_bits, least, m, n, k, a, b, d);
  else if (how.terms == 8)
    multiply_with<8>(how.fraction_bits, least, m, n, k, a, b, d);
  else
    multiply_with<16>(how.fraction_bits, least, m, n, k, a, b, d);
}

}  // namespace ptx
