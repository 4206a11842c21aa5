// The operators as PyTorch calls them, the same for every library: their flat signatures, gathered into records, and
// the checks that need no more than shapes and types. May include torch's stable ABI and tensors.h, no backend.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <utility>

#include "tensors.h"

namespace multimix {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

inline DType dtype_of(ScalarType type, const char* name, bool with_float64) {
  switch (type) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    default:
      if (with_float64 && type == ScalarType::Double) return DType::kFloat64;
      STD_TORCH_CHECK(false, name, ": expected float32, ", with_float64 ? "float64, " : "", "bfloat16 or float16");
  }
}

// The last dimensions of a tensor of `dims` dimensions, right-aligned.
inline Strided strided(const Tensor& x, int64_t dims, const char* name, bool with_float64) {
  STD_TORCH_CHECK(x.dim() == dims, name, ": expected ", dims, " dimensions, got ", x.dim());
  Strided result{x.data_ptr(), dtype_of(x.scalar_type(), name, with_float64), {0, 0, 0}};
  for (int64_t k = 0; k < dims; ++k) result.strides[3 - dims + k] = x.stride(k);
  return result;
}

// What names the weights (r, n, b).
struct DrawArguments {
  std::optional<Tensor> attention, ignored;
  Tensor seed;
  std::optional<Tensor> alpha;
  int64_t n, m;
  double low, high;
  int64_t row_offset;

  void check(int64_t b, int64_t r) const {
    STD_TORCH_CHECK(seed.numel() == 1 && seed.scalar_type() == ScalarType::Long, "seed: expected one int64");
    STD_TORCH_CHECK(n >= 1 && m >= 1 && m <= b && r >= 1, "n, m: expected n >= 1 and 1 <= m <= b");
    STD_TORCH_CHECK(!alpha || (alpha->dim() == 1 && alpha->size(0) == b), "alpha: expected shape (b,)");
    STD_TORCH_CHECK(
        !ignored || (ignored->dim() == 1 && ignored->size(0) == b && ignored->scalar_type() == ScalarType::Bool),
        "ignored: expected bool of shape (b,)");
    STD_TORCH_CHECK(!attention || (attention->dim() == 2 && attention->size(0) == r && attention->size(1) == b),
                    "attention: expected (r, b)");
  }
};

// A float32 that is nearest to the bound may lie beyond it.
inline void check_alpha(double least, double greatest) {
  STD_TORCH_CHECK(least >= 0.01 * (1 - 1e-7) && greatest <= 1000 * (1 + 1e-7),
                  "alpha: expected values within [0.01, 1000]");
}

// Which gradients are wanted.
struct Want {
  bool operand, attention;
};

// A loss: its operand is scores (r, b, c) if they are to be mixed, otherwise logits (r, n, c).
struct LossArguments {
  bool mix_scores;
  Tensor operand, target;
  double smoothing;
  int64_t ignore_index;
  Want want;
  DrawArguments draw;

  int64_t r() const { return operand.size(0); }
  int64_t b() const { return target.size(0); }
  int64_t c() const { return operand.size(2); }

  void check() const {
    STD_TORCH_CHECK(operand.size(1) == (mix_scores ? b() : draw.n), "operand: expected shape (r, ",
                    mix_scores ? "b" : "n", ", c)");
    STD_TORCH_CHECK(!want.attention || draw.attention, "attention: its gradient is wanted, but there is none");
    const bool indices = target.dim() == 1 && target.scalar_type() == ScalarType::Long;
    STD_TORCH_CHECK(target.dim() == 2 || indices, "target: expected class indices (b,) of type int64");
    STD_TORCH_CHECK(indices || target.size(1) == c(), "target: expected probabilities (b, c)");
  }
};

// Library: sample, mix, mix_backward, loss and loss_backward of these records.
template <class Library>
struct Operators {
#define MULTIMIX_DRAW_PARAMETERS                                                                                       \
  std::optional<Tensor> attention, std::optional<Tensor> ignored, Tensor seed, std::optional<Tensor> alpha, int64_t n, \
      int64_t m, double low, double high, int64_t row_offset
#define MULTIMIX_DRAW                                                                                        \
  DrawArguments {                                                                                            \
    std::move(attention), std::move(ignored), std::move(seed), std::move(alpha), n, m, low, high, row_offset \
  }

  static Tensor sample(int64_t b, int64_t r, ScalarType dtype, MULTIMIX_DRAW_PARAMETERS) {
    const DrawArguments draw = MULTIMIX_DRAW;
    draw.check(b, r);
    return Library::sample(b, r, dtype, draw);
  }

  static Tensor mix(Tensor values, MULTIMIX_DRAW_PARAMETERS) {
    const DrawArguments draw = MULTIMIX_DRAW;
    draw.check(values.size(1), values.size(0));
    return Library::mix(values, draw);
  }

  static std::tuple<Tensor, Tensor> mix_backward(Tensor grad, Tensor values, bool want_values, bool want_attention,
                                                 MULTIMIX_DRAW_PARAMETERS) {
    const DrawArguments draw = MULTIMIX_DRAW;
    draw.check(values.size(1), values.size(0));
    STD_TORCH_CHECK(grad.size(0) == values.size(0) && grad.size(1) == n && grad.size(2) == values.size(2),
                    "grad: expected shape (r, n, d)");
    STD_TORCH_CHECK(!want_attention || draw.attention, "attention: its gradient is wanted, but there is none");
    return Library::mix_backward(grad, values, {want_values, want_attention}, draw);
  }

  template <bool mix_scores>
  static std::tuple<Tensor, Tensor, Tensor> cross_entropy(Tensor operand, Tensor target, double smoothing,
                                                          int64_t ignore_index, int64_t reduction, bool want_operand,
                                                          bool want_attention, MULTIMIX_DRAW_PARAMETERS) {
    const LossArguments loss{mix_scores,   std::move(operand), std::move(target),
                             smoothing,    ignore_index,       {want_operand, want_attention},
                             MULTIMIX_DRAW};
    loss.draw.check(loss.b(), loss.r());
    loss.check();
    return Library::loss(loss, Reduction(reduction));
  }

  template <bool mix_scores>
  static std::tuple<Tensor, Tensor> cross_entropy_backward(Tensor grad_rows, Tensor operand, Tensor target,
                                                           double smoothing, int64_t ignore_index, bool want_operand,
                                                           bool want_attention, MULTIMIX_DRAW_PARAMETERS) {
    const LossArguments loss{mix_scores,   std::move(operand), std::move(target),
                             smoothing,    ignore_index,       {want_operand, want_attention},
                             MULTIMIX_DRAW};
    loss.draw.check(loss.b(), loss.r());
    loss.check();
    STD_TORCH_CHECK(grad_rows.dim() == 2 && grad_rows.size(0) == loss.r() && grad_rows.size(1) == n,
                    "grad_rows: expected shape (r, n)");
    return Library::loss_backward(grad_rows, loss);
  }
#undef MULTIMIX_DRAW_PARAMETERS
#undef MULTIMIX_DRAW

  template <class Registry>
  static void implement(Registry& registry) {
    registry.impl("sample", TORCH_BOX(&Operators::sample));
    registry.impl("mix", TORCH_BOX(&Operators::mix));
    registry.impl("mix_backward", TORCH_BOX(&Operators::mix_backward));
    registry.impl("mixed_cross_entropy", TORCH_BOX(&Operators::template cross_entropy<true>));
    registry.impl("mixed_cross_entropy_backward", TORCH_BOX(&Operators::template cross_entropy_backward<true>));
    registry.impl("soft_cross_entropy", TORCH_BOX(&Operators::template cross_entropy<false>));
    registry.impl("soft_cross_entropy_backward", TORCH_BOX(&Operators::template cross_entropy_backward<false>));
  }
};

}  // namespace multimix
