// sums/: sums in a fixed order, without atomics, the same bits in every run: gradients from partial sums, the loss from
// its rows, the attention's gradient from that of the weights. May include host/ and device/ only.
#pragma once

#include "cuda/host/jobs.h"
#include "cuda/host/memory.h"
#include "cuda/sums/loss.h"

namespace multimix {

// mass.cu: row sums (places, rows) of `from` in float32.
float* row_sums(const Context& context, const Strided& from, int first, int places, int rows, int columns);

// mass.cu: the mass of each example (b), as of mass.h, and whether it is kBadMass.
struct Masses {
  const float* at;
  const bool* bad;
};
Masses masses(const Context& context, const Target& target, int b);

// What blocks of rows have gathered, transposed: class j of example i is at[j * width + i] of its place and split.
struct PartialSums {
  const float* at;  // (places, splits, height, width)
  int places, splits, height, width;
};

// scale * the sum over the splits, or that added to what is there.
struct GradientOutput {
  float* at;  // (places, b, c)
  int b, c;
  Scale scale;
  bool accumulate;
  Strided values;  // (r, b, c) whose gradient this is: none where they are minus infinity; or null
  int first_location;
};

// Rows row ... row + b - 1 of a partial sum are those of M^T M for the weights M (row e, column i); that times the
// smoothed targets is subtracted: sum_e gram[e, i] y[e, j]. One class: exactly zero.
struct GramCorrection {
  int row;
  const Target* target;
};

// add_up.cu; gram may be null. loss: finished by the same launch, or null.
void add_up(const Context& context, const PartialSums& partial, const GradientOutput& out,
            const GramCorrection* gram = nullptr, const LossSlots* loss = nullptr);

// centre.cu: adds to grad_attention (places, b), that of the block's first location on, what its `gradient` gives it:
// the sum over rows of plain_i (g_i - sum_j mu_j g_j). first: overwrites instead.
void centre(const Context& context, const Draw& draw, const Block& block, bool first, Scale scale,
            float* grad_attention);

}  // namespace multimix
