// Mixed scores, and mixed targets, of some rows and 128 classes by one block: what the normaliser and the differences
// share.
#pragma once

#include "cuda/mixed/large.h"

namespace multimix {

template <Operand operand, bool with_targets>
struct MixClasses {
  using T = Element<operand>;
  using S = Stage<operand>;
  using Shape = TileShape<operand, with_targets>;
  using Tile = typename Shape::Sums;  // (rows, classes)
  static constexpr int kThreads = Shape::kThreads;
  static constexpr int kWeights = Shape::kRows * S::kAlong;                           // of a stage
  static constexpr int kStage = S::kAlongSize + (with_targets ? S::kAcrossSize : 0);  // beside them

  // Of shared memory; resident: the weights of all examples stay there.
  static size_t bytes(int width, bool resident) {
    const int weights = resident ? Shape::kRows * (width + kAlongPad) : 2 * kWeights;
    return size_t(weights + 2 * kStage) * sizeof(T);
  }

  MULTIMIX_DEVICE MixClasses(const LargeJob& job, int place, int row, bool resident)
      : weights(job.weights<T>(place)),
        scores(job.score_rows<T>(place)),
        targets(job.target_rows<T>()),
        labels(job.labels),
        row(row),
        width(job.block.width),
        resident(resident),
        own(reinterpret_cast<T*>(shared_memory())),
        stages(own + (resident ? Shape::kRows * (width + kAlongPad) : 2 * kWeights)) {
    if (!resident) return;
    const int pieces = width / S::kPiece;
    for (int at = threadIdx.x; at < Shape::kRows * pieces; at += kThreads)
      copy_async(own + at / pieces * (width + kAlongPad) + at % pieces * S::kPiece,
                 weights.data + int64_t(row + at / pieces) * width + at % pieces * S::kPiece);
  }

  static MULTIMIX_DEVICE void clear(Tile& logits, Tile& mixed) {
    logits.clear();
    if constexpr (with_targets) mixed.clear();
  }

  MULTIMIX_DEVICE int depths() const { return (width + S::kDepth - 1) / S::kDepth; }

  // Starts the copies of a stage: classes from `column` on, examples from `depth` on.
  MULTIMIX_DEVICE void load(int buffer, int column, int depth) const {
    T* stage = stages + buffer * kStage;
    copy_rows<kTile, S::kDepth, kThreads>(stage, S::kAlong, scores, column, depth);
    if constexpr (with_targets) {
      T* across = stage + S::kAlongSize;
      if (labels.labels != nullptr)
        write_ones<operand, S::kDepth, kTile, kThreads>(across, S::kAcross, labels, depth, column);
      else
        copy_rows<S::kDepth, kTile, kThreads>(across, S::kAcross, targets, depth, column);
    }
    if (!resident)
      copy_rows<Shape::kRows, S::kDepth, kThreads>(own + buffer * kWeights, S::kAlong, weights, row, depth);
  }

  // Adds a stage's products; true at the last.
  MULTIMIX_DEVICE bool add(Tile& logits, Tile& mixed, int buffer, int depth) const {
    const T* stage = stages + buffer * kStage;
    const int pitch = resident ? width + kAlongPad : S::kAlong, span = min(S::kDepth, width - depth);
    const T* left = own + (resident ? depth : buffer * kWeights);
    logits.template multiply<false, false>(left, pitch, stage, S::kAlong, span);
    if constexpr (with_targets)
      mixed.template multiply<false, true>(left, pitch, stage + S::kAlongSize, S::kAcross, span);
    return depth + S::kDepth >= width;
  }

  Matrix<T> weights, scores, targets;
  LabelRow labels;
  int row, width;
  bool resident;
  T *own, *stages;
};

}  // namespace multimix
