// soft/: the loss from any head's logits, against mixed targets. This file: what its kernels share. May include every
// room below: host/, device/, weights/, products/, sums/.
//
//   loss_k = H(mu_k Y, softmax(l_k))     k a row (a mixture) of n, i an example of b, j a class of c
//
// With lse = top + ln z, the differences lse - l_j = (top - l_j) + ln z do not cancel, however large the logits:
//   loss_k = sum_j (mu_k Y)_j (lse - l_j)     dl = T softmax - mu Y     dM_ki = sum_j Y_ij (lse - l_j), T = sum_i mu_ki
//   mass_i
#pragma once

#include "cuda/host/blocks.h"
#include "cuda/host/launch.h"
#include "cuda/products/operands.h"
#include "cuda/sums/sums.h"

namespace multimix {

// The examples in the order of their labels, those of one class next to each other.
struct LabelOrder {
  const int* order;      // (b)
  const uint4* classes;  // class, and its first and its end in the order; of the classes that occur
  const int* counts;     // such classes; examples that have a class: they come first
};

// label_order.cu: once per call.
LabelOrder order_labels(const Context& context, const Target& target, int b);

// Of one row: the largest logit, ln sum_j exp(l_j - top), T, and sum_j (top - l_j).
struct alignas(16) RowRecord {
  float top, log_z, share, below;
};

// A super-block of rows as the kernels see it; pointers are those of the whole call unless said otherwise.
struct SoftBlock {
  Strided logits;  // (r, n, c)
  int64_t n, first;
  int first_location, places, rows, stored, width;
  int b, c;
  float keep, uniform;
  const float* mass;
  Operand operand;         // of the weights: float32 with labels, whatever the logits are
  const void* weights;     // of the block
  const float* inverse;    // of the block
  const float* grad_rows;  // or null
  Scale scale;
  float* losses;            // (r, n), or null
  float* gradient;          // (r, n, c), or null
  float* weights_gradient;  // of the block, or null

  // Whether it is the first of the call.
  MULTIMIX_DEVICE bool is_first() const { return first_location == 0 && first == 0; }
  MULTIMIX_DEVICE int64_t index(int place, int row) const { return (first_location + place) * n + first + row; }
  // d loss / d row loss, up to the scale.
  MULTIMIX_DEVICE float factor(int64_t index) const { return grad_rows ? grad_rows[index] : 1.0f; }
  MULTIMIX_DEVICE float scaled() const { return scale.device ? scale.host * *scale.device : scale.host; }
};

// rows.cu: with `labels` row losses, their sums and gradients, otherwise only `records` (places, stored) of the rows.
void soft_rows(const Context& context, SoftBlock block, const LabelOrder* labels, RowRecord* records, LossSlots& slots);

// Targets (b, c) as operands, unsmoothed.
struct SoftTargets {
  const void* data;
  int pitch;
  const float *sums, *rounded_sums;  // of each example's, before and after rounding
  const bool* skip;                  // examples whose targets are not finite: they read as zeros
};

// probabilities.cu: losses and gradients from the records and the targets.
SoftTargets soft_targets(const Context& context, const Target& target, const bool* bad, Operand operand, int b);
void soft_probabilities(const Context& context, const SoftBlock& block, Operand operand, const Block& weights,
                        const SoftTargets& targets, const RowRecord* records, LossSlots& slots);

}  // namespace multimix
