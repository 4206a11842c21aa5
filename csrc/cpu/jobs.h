// What one operator call works on, in plain types: shared by the operators and by every instruction set's kernels.
#pragma once

#include <cstdint>

#include "tensors.h"

// Compilers that know AVX512-BF16, which kernels for AVX-512 use where the processor has it.
#if defined(__x86_64__) && (defined(__clang__) ? __clang_major__ >= 12 : __GNUC__ >= 11)
#define MULTIMIX_KNOWS_BFLOAT16
#endif

namespace multimix {

// What names the weights mu (r, n, b). Pointers are to contiguous double, prepared by the operators.
struct Draw {
  uint64_t seed;
  uint64_t row_offset;
  int64_t n, m, b, r;
  double low, high;
  const double* alpha;      // (b), or null: one concentration in [low, high] per row
  const double* attention;  // (r, b), or null: at most 1, zero for ignored examples
  const double* keep;       // (b), or null: 0 for ignored examples, 1 for the others
  int64_t candidates;       // examples that are not ignored, at least 1
  bool exact;               // draw in double and in log space: double results, or small concentrations
};

// The targets of a loss.
struct Target {
  const int64_t* labels;  // (b), or null
  Strided probabilities;  // (b, c), where there are no labels
  int64_t c;
  int64_t ignore_index;
  double smoothing;
};

// Runs body(begin, end, context) over [0, count), split over threads in any way. ns: about how many nanoseconds each of
// the count takes one thread; 0 if that is not known.
using ParallelFor = void (*)(int64_t count, double ns, void (*body)(int64_t, int64_t, void*), void* context);

struct SampleJob {
  Draw draw;
  DType dtype;
  void* weights;  // (r, n, b) contiguous
};

struct MixJob {
  Draw draw;
  bool wide;       // compute in double
  Strided values;  // (r, b, d)
  int64_t d;
  Strided grad;          // (r, n, d): backward only
  void* mixed;           // (r, n, d) contiguous, of the values' type: forward only
  void* grad_values;     // (r, b, d) contiguous Real, or null
  void* grad_attention;  // (r, b) contiguous Real, or null
};

struct LossJob {
  Draw draw;
  Target target;
  bool wide;        // compute in double
  bool narrow;      // multiply scores rounded to bfloat16, if wide and the attention's gradient do not forbid it
  bool mix_scores;  // the operand is scores (r, b, c) to be mixed; otherwise logits (r, n, c)
  Strided operand;
  Strided grad_rows;  // (r, n), at most the scale; no data: the scale for every row
  double scale;
  void* rows;            // (r, n) contiguous Real, or null
  double* total;         // the sum of all rows, or null
  void* grad_operand;    // contiguous Real, or null
  void* grad_attention;  // (r, b) contiguous Real, or null
};

// One instruction set's kernels.
struct Kernels {
  const char* name;
  void (*sample)(const SampleJob&, ParallelFor);
  void (*mix)(const MixJob&, ParallelFor);  // forward if the job has `mixed`, else backward
  void (*cross_entropy)(const LossJob&, ParallelFor);
};

}  // namespace multimix
