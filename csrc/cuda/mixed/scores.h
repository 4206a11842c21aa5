// Scores as the products of the mixed loss read them: each example's less a constant, which no softmax sees, so that
// mixing rounds differences only; finite, so that a weight of zero takes nothing.
#pragma once

#include "cuda/device/constants.h"
#include "cuda/device/read.h"
#include "cuda/sums/mass.h"

namespace multimix {

// Float16 operands are scores times this, so that a mask is far below all of them; what small scores lose by it is less
// than half of float16's precision at one.
template <Operand operand>
constexpr float kScoreScale = operand == Operand::kF16 ? 0x1p-11f : 1.0f;
// From mixed operands to logits in units of ln 2.
template <Operand operand>
constexpr float kLogitUnit = kLog2E / kScoreScale<operand>;
// A class that does not exist for an example (a score of minus infinity, or of finfo.min): mixed with any weight that
// counts, its probability is zero. In float16 it is the least operand, and no weight is below kLeastHalfWeight: the
// class has at most exp(-32) of its probability.
template <Operand operand>
constexpr float kMasked = operand == Operand::kF16 ? -65504.0f / kScoreScale<operand> : -0x1p126f;
// Mixed logits below are masked.
constexpr float kLeastLogit = -0x1p60f;

MULTIMIX_DEVICE bool is_masked(float score, DType type) {
  return score < -3e38f || (type == DType::kFloat16 && score <= -65504.0f);
}

// What no operand loses digits by, from the largest and the least score. Float32: the largest. TF32: that, where it is
// more than scores differ. 16 bits: that, where every difference is a number of 16 bits: all scores within a factor of
// two.
template <Operand operand>
MULTIMIX_DEVICE float shift_of(float top, float least) {
  if (!(top > -INFINITY)) return 0;
  if (operand == Operand::kFP32) return top;
  if (operand == Operand::kTF32) return fabsf(top) > top - least ? top : 0.0f;
  return (top > 0 ? least >= 0.5f * top : least >= 2 * top) ? top : 0.0f;
}

// Of an example's scores, as far as a lane has seen them.
struct ScoreRange {
  float top = -INFINITY, least = INFINITY;  // but for masked classes
  bool bad = false, masked = false;         // some score is NaN or infinity; some class is masked

  MULTIMIX_DEVICE void add(float x, DType type) {
    bad = bad || !(x < INFINITY);
    if (is_masked(x, type))
      masked = true;
    else
      top = fmaxf(top, x), least = fminf(least, x);
  }
  // That of `lanes` neighbours, a power of two.
  MULTIMIX_DEVICE void combine(int lanes) {
    top = combine_lanes(top, Larger(), lanes), least = -combine_lanes(-least, Larger(), lanes);
    const int flags = combine_lanes(int(bad) | int(masked) << 1, Either(), lanes);
    bad = flags & 1, masked = flags & 2;
  }
};

template <Operand operand>
MULTIMIX_DEVICE float shifted(float score, float shift, DType type) {
  return is_masked(score, type) ? kMasked<operand> : fmaxf(score - shift, kMasked<operand>);
}

// Of some locations.
struct ScoreOperands {
  const void* at;     // (places, height, pitch) of classes by examples
  const float* mass;  // (places, b) of each example's target, or kBadMass; then its scores are zeros
  const float* sums;  // (places, b) of each example's scores; where wanted
};

// scores.cu. Below the classes, from row gram on, is the identity; nothing, if that is negative.
ScoreOperands pack_scores(const Context& context, const LossJob& job, int first_location, int places, int height,
                          int gram, int pitch, bool want_sums);

}  // namespace multimix
