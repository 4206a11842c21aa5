// Scores as the products of the mixed loss read them: each example's less a constant, which no softmax sees, so that
// mixing rounds differences only; finite, so that a weight of zero takes nothing.
#pragma once

#include "cuda/device/read.h"
#include "cuda/host/memory.h"

namespace multimix {

// A class that does not exist for an example (a score of minus infinity, or of finfo.min): mixed with any weight that
// counts, its probability is zero. Float16 has nothing larger.
template <Operand operand>
constexpr float kMasked = operand == Operand::kF16 ? -65504.0f : -0x1p126f;
// The mass of an example whose scores hold NaN or infinity, which reaches the rows that mix it: their shares are beyond
// kMostShare.
constexpr float kBadMass = 0x1p126f, kMostShare = 0x1p60f;
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
