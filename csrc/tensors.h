// Tensors in plain types: what operators hand to kernels, on the host and on devices. Includes nothing of torch.
#pragma once

#include <cstdint>

namespace multimix {

enum class DType : int { kFloat32, kBFloat16, kFloat16, kFloat64 };

// A tensor of up to three dimensions, right-aligned, in any layout; strides are in elements.
struct Strided {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t strides[3] = {0, 0, 0};
};

}  // namespace multimix
