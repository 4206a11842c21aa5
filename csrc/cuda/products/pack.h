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

// The same of the targets' probabilities (height, pitch), unsmoothed; what is not finite is zero.
void* pack_targets(const Context& context, Operand operand, const Target& target, int b, int height, int pitch);

// grad_rows (r, n) relative to their largest magnitude, and that (or 1 where all are zero).
struct Relative {
  float* values;
  float* largest;
};
Relative relative(const Context& context, const Strided& grad_rows, int64_t r, int64_t n);

}  // namespace multimix
