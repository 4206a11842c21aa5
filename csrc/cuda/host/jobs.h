// host/: one operator call on the CPU's side: what it works on (this file), its memory (memory.h, call.h), its blocks
// of rows (blocks.h), its launches (launch.h, dispatch.h). May include device/primitives.h and tensors.h only; call.h
// alone torch.
//
// Jobs are plain types, which the operators hand to the launchers, and those to the kernels.
#pragma once

#include <cstdint>

#include "tensors.h"

namespace multimix {

// How matrix products read their operands.
enum class Operand : int { kBF16, kF16, kTF32, kFP32 };

// How gammas are computed: in float32 with the logarithm of the special function unit; in float32 with an accurate one,
// as large concentrations multiply its error; in pairs of floats and in log space, as small ones divide the error of
// the slack.
enum class Arithmetic : int { kHardware, kAccurate, kLogSpace };
// The least concentrations of a row at which weights keep 1e-5 with float32 logarithms, and with the special function
// unit's, and the greatest at which they do with the latter.
constexpr double kAccurateFrom = 0.3, kHardwareFrom = 0.5, kHardwareTo = 4;

// What names the weights mu (r, n, b). Pointers are to contiguous device memory.
struct Draw {
  const int64_t* seed;     // one element
  const double* alpha;     // (b), or null: one concentration in [low, high] per row and location
  const float* attention;  // (r, b), or null
  const bool* ignored;     // (b), or null
  int64_t n, row_offset;
  int b, r, m;
  double low, high;
  Arithmetic arithmetic;
};

// Labels or probabilities, smoothed: keep * y + uniform for each class of an example that has a target.
struct Target {
  const int64_t* labels;  // (b), or null: no label, ignore_index, or one outside [0, c), contributes to no class
  Strided probabilities;  // (b, c), where there are no labels
  int c;
  int64_t ignore_index;
  float keep, uniform, smoothing;
};

// A factor that only the device knows.
struct Scale {
  float host = 1;
  const float* device = nullptr;  // one element, or null: 1
};

// Where the loss goes: the sum of the row losses times scale.
struct LossOutput {
  float* at;  // one element, or null: not wanted
  double scale;
  bool mean;  // NaN if nothing is left to take the mean of: every label is ignore_index, or every example ignored
};

// One loss. Row losses are those of the mixtures; gradients are d (sum of scale * factor * row loss).
struct LossJob {
  Draw draw;
  Target target;
  Operand operand;         // how products read scores or logits
  Strided values;          // scores (r, b, c) to be mixed, or logits (r, n, c)
  const float* grad_rows;  // (r, n) contiguous factors of the rows, or null: 1
  Scale scale;
  float* rows;  // (r, n), or null
  LossOutput loss;
  float* grad_values;     // contiguous, of the shape of the values, or null
  float* grad_attention;  // (r, b), or null
};

// mixed = mu values, or its gradients for a given grad (r, n, d).
struct MixJob {
  Draw draw;
  Operand operand;
  Strided values;  // (r, b, d)
  int d;
  Strided grad;           // (r, n, d): backward only
  void* mixed;            // (r, n, d) contiguous, of the values' type: forward only
  float* grad_values;     // (r, b, d) contiguous, or null
  float* grad_attention;  // (r, b) contiguous, or null
};

// Weights of some rows of some locations, in a scratch that stays in the L2 cache: (places, stored, ...), `rows` of the
// stored rows real, the others zero.
struct Block {
  int first_location, places;
  int64_t first;     // row
  int rows, stored;  // stored: a multiple of kRowTile
  bool last;         // of these locations
  int width;         // elements of a row: b, padded with zeros to a multiple of 16
  void* weights;     // (places, stored, width) operands, row sums about 1
  float* inverse;    // (places, stored): 1 / the sum of the row's rounded weights, 0 for a row of zeros
  float* plain;      // (places, stored, width) mu's derivative by the attention up to centring; where wanted
  float* gradient;   // (places, stored, width) d loss / d mu; where wanted
};
constexpr int kRowTile = 128;

constexpr int round_up(int x, int unit) { return (x + unit - 1) / unit * unit; }
constexpr int64_t ceil_div(int64_t x, int64_t y) { return (x + y - 1) / y; }

}  // namespace multimix
