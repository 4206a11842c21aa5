// Reads elements of tensors of any type and layout as floats.
#pragma once

#include "cuda/device/primitives.h"
#include "cuda/host/jobs.h"

namespace multimix {

MULTIMIX_DEVICE float read(const Strided& x, int64_t offset) {
  switch (x.dtype) {
    case DType::kBFloat16: return to_float(static_cast<const BF16*>(x.data)[offset]);
    case DType::kFloat16: return to_float(static_cast<const F16*>(x.data)[offset]);
    default: return static_cast<const float*>(x.data)[offset];
  }
}

MULTIMIX_DEVICE float read(const Strided& x, int64_t i, int64_t j, int64_t k) {
  return read(x, i * x.strides[0] + j * x.strides[1] + k * x.strides[2]);
}

}  // namespace multimix
