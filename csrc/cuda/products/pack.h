// Operands made ready for kernels: contiguous, padded, rounded to what products read. Launchers are in pack.cu.
// Cost: each reads its operand once and writes its result once; sizes are those of scores and targets, not of n, but
// for `relative`.
#pragma once

#include "cuda/host/jobs.h"
#include "cuda/host/memory.h"

namespace multimix {

// Packed operands: (places, height, pitch) of which places x rows x columns are those of `from`, starting at its first
// index `first`, and the others zero. They lie 16-byte aligned if pitch is a multiple of 8.
void* pack(const Context& context, Operand operand, const Strided& from, int first, int places, int rows, int columns,
           int height, int pitch);

// The mass of an example whose probabilities or scores hold NaN or infinity, which go into products as zeros. It
// reaches the rows that mix the example: their shares are beyond kMostShare.
constexpr float kBadMass = 0x1p126f, kMostShare = 0x1p60f;

// The same of the targets (height, pitch) of examples by classes, unsmoothed; labels become ones.
void* pack_targets(const Context& context, Operand operand, const Target& target, int b, int height, int pitch);

// Row sums (places, rows) of `from` in float32.
float* row_sums(const Context& context, const Strided& from, int first, int places, int rows, int columns);

// The mass of each example's smoothed target: kBadMass where probabilities are not finite, NaN where a label does not
// exist.
float* target_mass(const Context& context, const int64_t* labels, const Strided& probabilities, int b, int c,
                   int64_t ignore_index, float smoothing);

// Of each example whether its mass is kBadMass.
bool* bad_examples(const Context& context, const float* mass, int b);

// grad_rows (r, n) relative to their largest magnitude, and that (or 1 where all are zero).
struct Relative {
  float* values;
  float* largest;
};
Relative relative(const Context& context, const Strided& grad_rows, int64_t r, int64_t n);

// The loss from the sum of its rows. `mean`: NaN if nothing is left to take the mean of, because every label is
// ignore_index or every example is ignored; either may be null.
void finish_loss(const Context& context, const double* total, double scale, bool mean, const int64_t* labels,
                 const bool* ignored, int b, int64_t ignore_index, float* loss);

}  // namespace multimix
