// Masses of examples: the sums of their smoothed targets, by which they count in the losses of the rows that mix them.
#pragma once

#include "cuda/device/elements.h"
#include "cuda/device/read.h"
#include "cuda/device/team.h"

namespace multimix {

// The mass of an example whose probabilities or scores hold NaN or infinity, which go into products as zeros. It
// reaches the rows that mix the example: their shares are beyond kMostShare.
constexpr float kBadMass = 0x1p126f, kMostShare = 0x1p60f;

// 0 if the label is ignored, NaN if it does not exist.
MULTIMIX_DEVICE float label_mass(const Target& target, int64_t label) {
  const bool exists = label >= 0 && label < target.c;
  return label == target.ignore_index ? 0.0f : exists ? 1.0f : kNaN;
}

// From the sum of an example's probabilities.
MULTIMIX_DEVICE float smoothed_mass(const Target& target, float sum) {
  return is_finite(sum) ? sum * (1 - target.smoothing) + target.smoothing : kBadMass;
}

// Of example i, by a whole warp. Reads its label, or its probabilities once.
MULTIMIX_DEVICE float target_mass(const Target& target, int i) {
  if (target.labels != nullptr) return label_mass(target, target.labels[i]);
  float sum = 0;
  for (int j = threadIdx.x % kWarp; j < target.c; j += kWarp) sum += read(target.probabilities, 0, i, j);
  return smoothed_mass(target, warp_sum(sum));
}

}  // namespace multimix
