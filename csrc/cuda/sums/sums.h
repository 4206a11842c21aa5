// Partial sums added up in a fixed order: no atomics, the same bits in every run. Launchers are in reduce.cu.
#pragma once

#include "cuda/host/context.h"
#include "cuda/host/jobs.h"

namespace multimix {

// total += the sum of count floats, or = with `first`. One block, a fixed tree.
void sum_up(const Context& context, const float* parts, int64_t count, bool first, double* total);

// out (places, b, c) = scale * sum over splits of partial (places, splits, height, width), transposed: class j of
// example i is partial[j * width + i].
// gram >= 0: rows gram ... gram + b - 1 of a partial sum are those of M^T M for the weights M (row e, column i); that
// times the smoothed targets is subtracted: sum_e gram[e, i] y[e, j]. One class: exactly zero.
void add_up(const Context& context, const float* partial, int places, int splits, int height, int width, int gram,
            const Target* target, Scale scale, int b, int c, float* out);

// Adds to grad_attention (places, b), that of the block's first location on, what its `gradient` gives it: the sum over
// rows of plain_i (g_i - sum_j mu_j g_j). first: overwrites instead.
void centre(const Context& context, const Draw& draw, const Block& block, bool first, Scale scale,
            float* grad_attention);

}  // namespace multimix
