// Scores as the products of the mixed loss read them: each example's less a constant, which no softmax sees, so that
// mixing rounds differences only; finite, so that a weight of zero takes nothing.
#pragma once

#include "cuda/device/constants.h"
#include "cuda/device/read.h"
#include "cuda/products/pack.h"

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

// Of each example (places, b).
struct ScoreRows {
  const float* shift;  // what its scores are less
  const float* mass;   // of its target, or kBadMass; then its scores are zeros
  const float* sums;   // of its scores; where wanted
};

template <Operand operand>
MULTIMIX_DEVICE float shifted(float score, float shift, DType type) {
  return is_masked(score, type) ? kMasked<operand> : fmaxf(score - shift, kMasked<operand>);
}

// scores.cu: reads the scores once, twice where sums are wanted.
ScoreRows score_rows(const Context& context, const LossJob& job, int first_location, int places, bool want_sums);

// (places, height, pitch), of which places x b x c are the scores; transposed: (places, height, pitch) of classes by
// examples, below which, from row gram on, is the identity.
void* pack_scores(const Context& context, const LossJob& job, const ScoreRows& rows, int first_location, int places,
                  int height, int pitch);
void* pack_scores_transposed(const Context& context, const LossJob& job, const ScoreRows& rows, int first_location,
                             int places, int height, int gram, int pitch);

}  // namespace multimix
