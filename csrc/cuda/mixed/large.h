// mixed/: the loss from scores that are mixed, in one pass (small.cu) or in super-blocks of rows: what the kernels of
// these share, and who launches what. May include every room below: host/, device/, weights/, products/, sums/.
//
// Letters: i (or e) an example of b, j a class of c, k a row (a mixture) of n; a location of r is a
// `place` of a super-block.
#pragma once

#include "cuda/host/blocks.h"
#include "cuda/host/jobs.h"
#include "cuda/host/launch.h"
#include "cuda/products/operands.h"

namespace multimix {

constexpr float kLeast = -1e30f;  // below any logit: what is lower adds nothing to a sum of exponentials

// What later passes need of a row, in one load.
struct alignas(16) RowState {
  float scale;        // inverse * kLogitUnit: logits in units of ln 2 from unnormalised mixed operands
  float lse;          // in the same units
  float probability;  // of the softmax in the gradient for unnormalised weights: factor * inverse * share
  float target;       // of an unnormalised mixed target there: factor * inverse * inverse
};

struct LargeJob {
  Block block;
  const void* scores;   // (places, height, width): classes by examples; rows `gram` ... are those of the identity
  const void* targets;  // (b, target_pitch): probabilities of examples by classes, or null
  int target_pitch;
  LabelRow labels;          // or null
  const float* mass;        // (places, b), as of ScoreOperands
  const float* score_sums;  // (places, b), or null: targets are not smoothed
  const float* grad_rows;   // (r, n), or null
  RowState* state;          // (places, stored)
  float* rows;              // (r, n), or null
  double* sums;             // (places, tiles) slots of row losses, or null
  int64_t n;
  int b, c, height, gram;
  float keep, uniform;

  template <class T>
  MULTIMIX_DEVICE Matrix<T> weights(int64_t place) const {
    return {static_cast<const T*>(block.weights) + place * block.stored * block.width, 0, block.width, block.stored,
            block.width};
  }
  template <class T>
  MULTIMIX_DEVICE Matrix<T> target_rows() const {
    return {static_cast<const T*>(targets), 0, target_pitch, b, target_pitch};
  }
  template <class T>
  MULTIMIX_DEVICE Matrix<T> score_rows(int64_t place) const {
    return {static_cast<const T*>(scores) + place * height * block.width, 0, block.width, height, block.width};
  }
};

// Of one part of the classes and one row: the largest logit and the sum of exponentials relative to it; of the mixed
// target y (only where `by class`) its sum, and that of y times the logits relative to the largest.
struct alignas(16) RowPart {
  float top, z, mass, product;
};

// How many parts the classes of a row are in, and those parts (places, parts, stored).
struct Parts {
  RowPart* at;
  int count;
};

// normaliser.cu: rows' log-sum-exp in parts; by_class: with mixed targets. Also what row_losses does, where a block has
// all classes of its rows.
int normaliser_parts(const Context& context, const LargeJob& job);
inline bool has_losses(Parts parts) { return parts.count == kWarpColumns; }
void normalise(const Context& context, Operand operand, const LargeJob& job, bool by_class, Parts parts);
// row_loss.cu: losses, their sums and the state of the rows.
void row_losses(const Context& context, Operand operand, const LargeJob& job, bool by_class, Parts parts);

// gram_gradient.cu: up to 128 examples. Adds to, or with `first` writes, partial (places, splits, height, width), whose
// rows from job.gram on are of M^T M.
constexpr int kFusedExamples = 128;
int gradient_height(Operand operand, int rows);  // of partial sums of that many rows
int gradient_splits(const Context& context, Operand operand, const LargeJob& job, int height, int64_t most);
void gradient(const Context& context, Operand operand, const LargeJob& job, float* partial, int splits, int height,
              bool first);

// difference.cu: any number of examples, and the gradient of the weights, through d loss / d logits of some rows and
// some classes at a time.
struct Differences {
  void* delta;          // (places, rows, span): d loss / d logits, divided by the sum of the row's weights
  void* entropy;        // the same of -log softmax, or null
  int first_row, rows;  // of the super-block; rows: a multiple of 128
  int span;             // classes, a multiple of 128
};
void differences(const Context& context, Operand operand, const LargeJob& job, const Differences& to, int first_class);

// class_gradient.cu: as gradient(), for the classes of `from`, without M^T M.
int class_splits(const Context& context, const LargeJob& job, int classes, int rows, int64_t most);
void class_gradient(const Context& context, Operand operand, const LargeJob& job, const Differences& from,
                    int first_class, float* partial, int splits, int height, bool first);

// weights_gradient.cu: adds to, or with first_class = 0 writes, block.gradient.
void weights_gradient(const Context& context, Operand operand, const LargeJob& job, const Differences& from,
                      int first_class);

}  // namespace multimix
