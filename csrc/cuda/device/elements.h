// The types of products' operands, and numbers rounded to them.
#pragma once

#include "cuda/device/primitives.h"
#include "cuda/host/jobs.h"

namespace multimix {

template <Operand>
struct ElementOf {
  using type = float;
};
template <>
struct ElementOf<Operand::kBF16> {
  using type = BF16;
};
template <>
struct ElementOf<Operand::kF16> {
  using type = F16;
};
template <Operand operand>
using Element = typename ElementOf<operand>::type;

// A number as products read it; float32 stays as it is.
template <Operand operand>
MULTIMIX_DEVICE Element<operand> round_operand(float x) {
  if constexpr (operand == Operand::kTF32) {
    return round_tf32(x);
  } else {
    return from_float<Element<operand>>(x);
  }
}

MULTIMIX_DEVICE bool is_finite(float x) { return fabsf(x) < kInfinity; }

// Two 16-bit elements of one register.
template <class T>
MULTIMIX_DEVICE float2 unpack(uint32_t both) {
  return make_float2(to_float(T{uint16_t(both)}), to_float(T{uint16_t(both >> 16)}));
}

// Two neighbours, aligned to both.
template <class T>
MULTIMIX_DEVICE float2 load_pair(const T* at) {
  if constexpr (sizeof(T) == 2)
    return unpack<T>(*reinterpret_cast<const uint32_t*>(at));
  else
    return *reinterpret_cast<const float2*>(at);
}
template <class T>
MULTIMIX_DEVICE void store_pair(T* to, float x, float y) {
  if constexpr (sizeof(T) == 2)
    *reinterpret_cast<uint32_t*>(to) = pack<T>(x, y);
  else
    *reinterpret_cast<float2*>(to) = make_float2(x, y);
}

}  // namespace multimix
