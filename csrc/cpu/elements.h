// Rows of tensors of any floating-point type and layout, to and from contiguous Real.
#pragma once

#include "plan.h"
#include "simd.h"

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
    case DType::kFloat16: return read_row(static_cast<const _Float16*>(x.data) + start, stride, count, to);
  }
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
      for (int64_t i = 0; i < count; ++i) static_cast<_Float16*>(data)[offset + i] = _Float16(from[i]);
      return;
  }
}

}  // namespace MULTIMIX_ISA
}  // namespace multimix
