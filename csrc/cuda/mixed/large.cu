// Mixed cross-entropy in super-blocks of rows, for any number of classes and examples, and attention gradients.
//
// With weights M (rows, b) in the scratch, scores S (b, c) less each example's largest (scores.h), smoothed targets Y
// (b, c) and their mass T = M mass:
//   loss_k = T_k lse_k - (M S)_k (M Y)_k^T
//   dS     = M^T (T softmax) - (M^T M) Y             up to 128 examples: no target is mixed, the second half once
//   dS     = M^T (T softmax - M Y)                   more examples, or where attention wants a gradient too
//   dM     = (T softmax - M Y) S^T + (lse - M S) Y^T
//
// Cost per row, in products of 2 b c operations: normaliser 1 (2 by class), losses b / c (none by class), gradient
// 2 + 2 b / c up to 128 examples, otherwise 3, and 2 more for attention. Extra memory: 16 MiB of weights, 17 MiB of
// partial sums (or one sum of b by c, if that is more), 16 MiB of differences, and the packed scores of some locations.
#include <vector>

#include "cuda/host/memory.h"
#include "cuda/launchers.h"
#include "cuda/mixed/large.h"
#include "cuda/mixed/scores.h"
#include "cuda/products/pack.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

constexpr int64_t kDifferenceBytes = 16 << 20;
constexpr int kSpan = 1024;  // classes of which differences are held at most

// What holds for the whole call; its operands of each location come later.
LargeJob large_job(const Context& context, const LossJob& job) {
  const Draw& draw = job.draw;
  const Target& target = job.target;
  LargeJob large{};
  large.labels.labels = target.labels, large.labels.ignore_index = target.ignore_index;
  large.labels.b = draw.b, large.labels.c = target.c;
  large.keep = target.keep, large.uniform = target.uniform;
  large.grad_rows = job.grad_rows, large.rows = job.rows;
  large.n = draw.n, large.b = draw.b, large.c = target.c;
  large.gram = round_up(target.c, 16), large.height = large.gram;
  large.target_pitch = round_up(target.c, 16);
  if (target.labels == nullptr)
    large.targets = pack_targets(context, job.operand, target, draw.b, draw.b, large.target_pitch);
  return large;
}

// Row losses of a super-block, and the states of its rows for the gradients.
void normalise_rows(const Context& context, const LossJob& job, LargeJob& large, LossSlots& slots) {
  const Block& block = large.block;
  const bool by_class = large.labels.labels == nullptr || large.c < large.b;  // whichever is the smaller product
  const int64_t stored = int64_t(block.places) * block.stored;
  large.state = context.make<RowState>(stored);
  large.sums = slots.at(stored / rows_of_tile(job.operand, by_class));
  Parts parts{nullptr, normaliser_parts(context, large)};
  parts.at = context.make<RowPart>(stored * parts.count);
  normalise(context, job.operand, large, by_class, parts);
  if (!has_losses(parts)) row_losses(context, job.operand, large, by_class, parts);
}

// The gradient by the scores, and that by the weights where attention wants it. Partial sums of some locations at a
// time, from one block of their rows to the next.
class ScoresGradient {
 public:
  // Makes the scores' rows as many as the partial sums'.
  ScoresGradient(const LossJob& job, LargeJob& large)
      : job_(job),
        large_(large),
        values_(job.grad_values != nullptr),
        attention_(job.grad_attention != nullptr),
        fused_(large.b <= kFusedExamples && !attention_),
        width_(round_up(large.b, 16)) {
    if (fused_ && values_) large.height = gradient_height(job.operand, large.gram + width_);
    most_ = std::max<int64_t>(1, kPartialBytes / (int64_t(sizeof(float)) * large.height * width_));
  }

  // Whether the scores' rows go on with the identity.
  bool has_gram() const { return fused_ && values_; }
  // Locations that a block may have.
  int64_t most_places() const { return most_; }

  // The first block of some locations.
  void begin(const Context& of_locations) {
    const Block& block = large_.block;
    if (!values_) return;
    const int64_t most = most_ / block.places;
    splits_ = fused_ ? gradient_splits(of_locations, job_.operand, large_, large_.height, most)
                     : class_splits(of_locations, large_, span(), step_rows(), most);
    partial_ = of_locations.make<float>(int64_t(block.places) * splits_ * large_.height * width_);
  }

  void add(const Context& of_block) const {
    if (fused_ && values_)
      gradient(of_block, job_.operand, large_, partial_, splits_, large_.height, large_.block.first == 0);
    else if (attention_ || values_)
      through_differences(of_block);
  }

  // The last block of some locations, and with those of all the loss.
  void finish(const Context& of_block, const LossSlots& slots) const {
    const Block& block = large_.block;
    const bool last = block.first_location + block.places == job_.draw.r;
    if (!values_) {
      if (last) finish_loss(of_block, slots);
      return;
    }
    const PartialSums sums{partial_, block.places, splits_, large_.height, width_};
    GradientOutput out{};
    out.at = job_.grad_values + int64_t(block.first_location) * large_.b * large_.c;
    out.b = large_.b, out.c = large_.c, out.scale = job_.scale;
    out.values = job_.values, out.first_location = block.first_location;
    const GramCorrection gram{large_.gram, &job_.target};
    add_up(of_block, sums, out, fused_ ? &gram : nullptr, last ? &slots : nullptr);
  }

 private:
  // Classes and rows of which differences are held at a time.
  int span() const { return std::min(round_up(large_.c, kTile), kSpan); }
  int step_rows() const {
    const int64_t row_bytes = large_.block.places * span() * element_bytes(job_.operand) * (attention_ ? 2 : 1);
    const int64_t tiles = std::max<int64_t>(1, kDifferenceBytes / row_bytes / kRowTile);
    return std::min(large_.block.stored, int(tiles) * kRowTile);
  }

  void through_differences(const Context& context) const {
    const Block& block = large_.block;
    const int most_rows = step_rows();
    const size_t bytes = size_t(block.places * element_bytes(job_.operand)) * most_rows * span();
    Differences step{};
    step.span = span();
    step.delta = context.memory(bytes);
    step.entropy = attention_ ? context.memory(bytes) : nullptr;
    for (step.first_row = 0; step.first_row < block.stored; step.first_row += most_rows) {
      step.rows = std::min(most_rows, block.stored - step.first_row);
      const bool first = block.first == 0 && step.first_row == 0;
      for (int first_class = 0; first_class < large_.c; first_class += step.span) {
        differences(context, job_.operand, large_, step, first_class);
        if (values_)
          class_gradient(context, job_.operand, large_, step, first_class, partial_, splits_, large_.height, first);
        if (attention_) weights_gradient(context, job_.operand, large_, step, first_class);
      }
    }
  }

  const LossJob& job_;
  const LargeJob& large_;
  bool values_, attention_, fused_;
  int width_, splits_ = 1;
  int64_t most_;
  float* partial_ = nullptr;
};

}  // namespace

void mixed_large(const Context& context, const LossJob& job) {
  const Draw& draw = job.draw;
  const bool attention = job.grad_attention != nullptr;
  LargeJob large = large_job(context, job);
  ScoresGradient gradient(job, large);
  LossSlots slots(context, job);
  Recycled of_locations(context), of_block(context);
  for_each_block(context, draw, job.operand, attention, gradient.most_places(), [&](const Block& block) {
    large.block = block;
    if (block.first == 0) {
      of_locations.restart();
      const ScoreOperands scores =
          pack_scores(of_locations.context, job, block.first_location, block.places, large.height,
                      gradient.has_gram() ? large.gram : -1, block.width, /*want_sums=*/job.target.uniform != 0);
      large.scores = scores.at, large.mass = scores.mass, large.score_sums = scores.sums;
      gradient.begin(of_locations.context);
    }
    of_block.restart();
    const Context& here = of_block.context;
    normalise_rows(here, job, large, slots);
    gradient.add(here);
    if (attention)
      centre(here, draw, block, block.first == 0, job.scale,
             job.grad_attention + int64_t(block.first_location) * draw.b);
    if (block.last) gradient.finish(here, slots);
  });
}

}  // namespace multimix
