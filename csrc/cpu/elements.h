// Rows of tensors of any floating-point type and layout, to and from contiguous Real.
#pragma once

#include <limits>

#include "cpu/jobs.h"
#include "cpu/simd.h"

namespace multimix {
namespace MULTIMIX_ISA {

struct BFloat16 {
  uint16_t bits;
  operator float() const {
    const uint32_t wide = uint32_t(bits) << 16;
    float x;
    std::memcpy(&x, &wide, sizeof x);
    return x;
  }
  static BFloat16 round(float x) {
    uint32_t b;
    std::memcpy(&b, &x, sizeof b);
    if (x != x) return {uint16_t((b >> 16) | 0x40)};  // a quiet NaN stays one
    return {uint16_t((b + 0x7FFF + ((b >> 16) & 1)) >> 16)};
  }
};

// IEEE half precision, for compilers without a type for it.
struct SoftHalf {
  uint16_t bits;
  SoftHalf() = default;
  explicit SoftHalf(float x) {
    uint32_t b;
    std::memcpy(&b, &x, sizeof b);
    const uint32_t sign = (b >> 16) & 0x8000;
    b &= 0x7FFFFFFF;
    if (b > 0x7F800000)
      b = 0x7E00;  // NaN
    else if (b >= 0x477FF000)
      b = 0x7C00;  // from 65520 on, infinity
    else if (b < 0x38800000)
      b = uint32_t(__builtin_nearbyintf((x < 0 ? -x : x) * 0x1p24f));  // subnormal
    else
      b = (b + 0xFFF + ((b >> 13) & 1) - (112u << 23)) >> 13;
    bits = uint16_t(sign | b);
  }
  operator float() const {
    uint32_t b = uint32_t(bits & 0x7FFF) << 13;
    float x;
    std::memcpy(&x, &b, sizeof x);
    x *= 0x1p112f;
    std::memcpy(&b, &x, sizeof b);
    if ((bits & 0x7C00) == 0x7C00) b = 0x7F800000 | (uint32_t(bits & 0x3FF) << 13);
    b |= uint32_t(bits & 0x8000) << 16;
    std::memcpy(&x, &b, sizeof x);
    return x;
  }
};

#if defined(__aarch64__)
using Half = __fp16;
#elif defined(__FLT16_MAX__) && !defined(MULTIMIX_SOFT_HALF)
using Half = _Float16;
#else
using Half = SoftHalf;
#endif

template <class Source, class Real>
void read_row(const Source* from, int64_t stride, int64_t count, Real* to) {
  if (stride == 1)
    for (int64_t i = 0; i < count; ++i) to[i] = Real(from[i]);
  else
    for (int64_t i = 0; i < count; ++i) to[i] = Real(from[i * stride]);
}

// Elements (i, j, k0) ... (i, j, k0 + count - 1).
template <class Real>
void read_row(const Strided& x, int64_t i, int64_t j, int64_t k0, int64_t count, Real* to) {
  const int64_t start = i * x.strides[0] + j * x.strides[1] + k0 * x.strides[2], stride = x.strides[2];
  switch (x.dtype) {
    case DType::kFloat32: return read_row(static_cast<const float*>(x.data) + start, stride, count, to);
    case DType::kFloat64: return read_row(static_cast<const double*>(x.data) + start, stride, count, to);
    case DType::kBFloat16: return read_row(static_cast<const BFloat16*>(x.data) + start, stride, count, to);
    case DType::kFloat16: return read_row(static_cast<const Half*>(x.data) + start, stride, count, to);
  }
}

// Scores, of which the least number of float16 is a mask like minus infinity: times a small weight it would be a score
// like others, as those of other types are not.
template <class Real>
void read_scores(const Strided& x, int64_t i, int64_t j, int64_t k0, int64_t count, Real* to) {
  read_row(x, i, j, k0, count, to);
  if (x.dtype != DType::kFloat16) return;
  for (int64_t k = 0; k < count; ++k) to[k] = to[k] == Real(-65504) ? -std::numeric_limits<Real>::infinity() : to[k];
}

// Writes count contiguous elements of the type, starting with the offset-th.
template <class Real>
void write_row(void* data, DType dtype, int64_t offset, int64_t count, const Real* from) {
  switch (dtype) {
    case DType::kFloat32:
      for (int64_t i = 0; i < count; ++i) static_cast<float*>(data)[offset + i] = float(from[i]);
      return;
    case DType::kFloat64:
      for (int64_t i = 0; i < count; ++i) static_cast<double*>(data)[offset + i] = double(from[i]);
      return;
    case DType::kBFloat16:
      for (int64_t i = 0; i < count; ++i) static_cast<BFloat16*>(data)[offset + i] = BFloat16::round(float(from[i]));
      return;
    case DType::kFloat16:
      for (int64_t i = 0; i < count; ++i) static_cast<Half*>(data)[offset + i] = Half(float(from[i]));
      return;
  }
}

}  // namespace MULTIMIX_ISA
}  // namespace multimix
