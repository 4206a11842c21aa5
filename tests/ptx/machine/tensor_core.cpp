#include "tensor_core.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

namespace ptx {
namespace {

constexpr int kBlock = 8;          // columns that are computed together
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
  const int biased = bits_of(x) >> 23 & 0xff;
  if (x == 0.0f) return kNoExponent;
  return biased == 0 ? -126 : std::max(biased - 127, least);
}

float truncated(double x) {
  if (std::fabs(x) >= 0x1p128) return float(x);
  const float y = float(x);
  return std::fabs(double(y)) > std::fabs(x) ? float_of(bits_of(y) - 1) : y;
}

bool all_finite(int terms, const float* a, const float* b, int stride, float c) {
  bool finite = std::isfinite(c);
  for (int k = 0; k < terms; ++k) finite &= std::isfinite(a[k]) && std::isfinite(b[k * stride]);
  return finite;
}

// Where an infinity or NaN takes part.
float special(int terms, const float* a, const float* b, int stride, float c) {
  double sum = c;
  for (int k = 0; k < terms; ++k) sum += double(a[k]) * b[k * stride];
  return std::isnan(sum) ? float_of(kNaN) : float(sum);
}

// One row of eight columns, one fused sum.
__attribute__((target_clones("avx2", "default"), optimize("O3"))) void add(int terms, int fraction_bits, const float* a,
                                                                           const int* a_exponents, const float* b,
                                                                           const int* b_exponents, int stride,
                                                                           float* d) {
  int largest[kBlock];
  double sum[kBlock], scale[kBlock];
  for (int j = 0; j < kBlock; ++j) {
    const uint32_t biased = bits_of(d[j]) >> 23 & 0xff;
    largest[j] = int(biased == 0 ? 1 : biased) - 127;
  }
  for (int k = 0; k < terms; ++k)
    for (int j = 0; j < kBlock; ++j) largest[j] = std::max(largest[j], a_exponents[k] + b_exponents[k * stride + j]);
  for (int j = 0; j < kBlock; ++j) {
    const uint64_t power = uint64_t(1023 + fraction_bits - largest[j]) << 52;
    std::memcpy(&scale[j], &power, sizeof power);
  }
  for (int j = 0; j < kBlock; ++j) sum[j] = int32_t(d[j] * scale[j]);
  for (int k = 0; k < terms; ++k)
    for (int j = 0; j < kBlock; ++j) sum[j] += int32_t(double(a[k]) * b[k * stride + j] * scale[j]);
  for (int j = 0; j < kBlock; ++j) d[j] = truncated(sum[j] / scale[j]);
}

std::vector<int> exponents_of(const float* x, int count, int least) {
  std::vector<int> exponents(count);
  for (int i = 0; i < count; ++i) exponents[i] = exponent_of(x[i], least);
  return exponents;
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
  const std::vector<int> a_exponents = exponents_of(a, m * k, least), b_exponents = exponents_of(b, k * n, least);
  const auto infinite = [](int exponent) { return exponent >= kInfinite; };
  const bool any = std::any_of(a_exponents.begin(), a_exponents.end(), infinite) ||
                   std::any_of(b_exponents.begin(), b_exponents.end(), infinite);
  for (int i = 0; i < m; ++i)
    for (int j = 0; j < n; j += kBlock)
      for (int first = 0; first < k; first += how.terms) {
        float* out = d + i * n + j;
        const float *row = a + i * k + first, *columns = b + first * n + j;
        float sums[kBlock];
        std::copy(out, out + kBlock, sums);
        add(how.terms, how.fraction_bits, row, &a_exponents[i * k + first], columns, &b_exponents[first * n + j], n,
            sums);
        if (any || std::any_of(out, out + kBlock, [](float x) { return !std::isfinite(x); }))
          for (int c = 0; c < kBlock; ++c)
            if (!all_finite(how.terms, row, columns + c, n, out[c]))
              sums[c] = special(how.terms, row, columns + c, n, out[c]);
        std::copy(sums, sums + kBlock, out);
      }
}

}  // namespace ptx
