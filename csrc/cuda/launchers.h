// The launchers of every operator's kernels: what the operators call.
#pragma once

#include "cuda/host/jobs.h"
#include "cuda/host/memory.h"

namespace multimix {

// weights/sample.cu: weights (r, n, b), contiguous.
void sample(const Context& context, const Draw& draw, DType dtype, void* weights);

// mix/mix.cu and mix/backward.cu
void mix(const Context& context, const MixJob& job);
void mix_backward(const Context& context, const MixJob& job);

// mixed/small.cu: one pass, where the examples and classes of a row tile fit on chip; no attention gradient.
bool fits_on_chip(const Context& context, const LossJob& job);
void mixed_small(const Context& context, const LossJob& job);

// mixed/large.cu: any size, any gradient.
void mixed_large(const Context& context, const LossJob& job);

// soft/soft.cu: logits of any head.
void soft(const Context& context, const LossJob& job);

}  // namespace multimix
