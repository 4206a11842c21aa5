// Mixed cross-entropy in super-blocks of rows, for any number of classes and examples, and attention gradients.
//
// With weights M (rows, b) in the scratch, scores S (b, c), smoothed targets Y (b, c) and their mass T = M mass:
//   loss_k = T_k lse_k - (M S)_k (M Y)_k^T
//   dS     = M^T (T softmax) - (M^T M) Y             up to 128 examples: no target is mixed, the second half once
//   dS     = M^T (T softmax - M Y)                   more examples, or where attention wants a gradient too
//   dM     = (T softmax - M Y) S^T + (lse - M S) Y^T
//
// Cost per row, in products of 2 b c operations: normaliser 1 (2 by class), losses b / c (none by class), gradient
// 2 + 2 b / c up to 128 examples, otherwise 3, and 2 more for attention. Extra memory: 16 MiB of weights, 12 MiB of
// partial sums (or one sum of b by c, if that is more), 16 MiB of differences, and the packed scores of some locations.
#include <vector>

#include "cuda/device/read.h"
#include "cuda/host/dispatch.h"
#include "cuda/host/recycled.h"
#include "cuda/launchers.h"
#include "cuda/mixed/large.h"
#include "cuda/products/pack.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

constexpr int64_t kDifferenceBytes = 16 << 20;
constexpr int kSpan = 1024;  // classes of which differences are held at most
constexpr int kPackTile = 32, kPackThreads = 256;

// Scores transposed, classes by examples, through shared memory; below them, from row gram on, the identity. Each is
// read and written once.
template <Operand operand>
__global__ void __launch_bounds__(kPackThreads)
    pack_scores_kernel(Strided from, const bool* ignored, int first_location, int b, int c, int height, int gram,
                       int width, Element<operand>* to) {
  float* tile = reinterpret_cast<float*>(shared_memory());
  const int across = (width + kPackTile - 1) / kPackTile, x = threadIdx.x % kPackTile, y = threadIdx.x / kPackTile;
  const int example = int(blockIdx.x % across) * kPackTile, j = int(blockIdx.x / across) * kPackTile;
  const int64_t place = blockIdx.y;
#pragma unroll
  for (int i = y; i < kPackTile; i += kPackThreads / kPackTile) {
    float score = 0;
    if (example + i < b && j + x < c && !(ignored != nullptr && ignored[example + i]))
      score = read(from, first_location + place, example + i, j + x);
    // A class may be masked with minus infinity; weights of zero must not make that a NaN.
    if (operand != Operand::kF16 && score < -3e38f) score = -3e38f;
    tile[i * (kPackTile + 1) + x] = score;
  }
  __syncthreads();
  if (example + x >= width) return;
#pragma unroll
  for (int row = y; row < kPackTile; row += kPackThreads / kPackTile) {
    if (j + row >= height) break;
    const float one = gram >= 0 && j + row - gram == example + x ? 1.0f : 0.0f;
    to[(place * height + j + row) * width + example + x] =
        round_operand<operand>(j + row < c ? tile[x * (kPackTile + 1) + row] : one);
  }
}

void* pack_scores(const Context& context, const LossJob& job, const LargeJob& large) {
  const int places = large.block.places, width = large.block.width;
  void* to = context.memory(size_t(element_bytes(job.operand) * places * large.height * width));
  with_operand(job.operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    const Grid grid{ceil_div(large.height, kPackTile) * ceil_div(width, kPackTile), places};
    launch(context, "pack_scores", pack_scores_kernel<o>, grid, kPackThreads,
           kPackTile * (kPackTile + 1) * sizeof(float), job.values, large.ignored, large.block.first_location, large.b,
           large.c, large.height, large.gram, width, static_cast<Element<o>*>(to));
  });
  return to;
}

// The gradients of a super-block through differences, some rows and classes at a time.
struct Steps {
  int span, rows;

  Steps(const LossJob& job, const LargeJob& large) {
    span = std::min(round_up(large.c, kTile), kSpan);
    const int64_t row_bytes =
        large.block.places * span * element_bytes(job.operand) * (job.grad_attention == nullptr ? 1 : 2);
    rows = std::min(large.block.stored, int(std::max<int64_t>(1, kDifferenceBytes / row_bytes / kRowTile)) * kRowTile);
  }
};

void through_differences(const Context& context, const LossJob& job, const LargeJob& large, const Steps& steps,
                         float* partial, int splits) {
  const size_t bytes = size_t(large.block.places * element_bytes(job.operand)) * steps.rows * steps.span;
  Differences to{};
  to.span = steps.span;
  to.delta = context.memory(bytes);
  to.entropy = job.grad_attention == nullptr ? nullptr : context.memory(bytes);
  for (to.first_row = 0; to.first_row < large.block.stored; to.first_row += steps.rows) {
    to.rows = std::min(steps.rows, large.block.stored - to.first_row);
    for (int first_class = 0; first_class < large.c; first_class += steps.span) {
      differences(context, job.operand, large, to, first_class);
      if (job.grad_values != nullptr)
        class_gradient(context, job.operand, large, to, first_class, partial, splits, large.height,
                       large.block.first == 0 && to.first_row == 0);
      if (job.grad_attention != nullptr) weights_gradient(context, job.operand, large, to, first_class);
    }
  }
}

}  // namespace

void mixed_large(const Context& context, const LossJob& job) {
  const Draw& draw = job.draw;
  const Target& target = job.target;
  const int width = round_up(draw.b, 16);
  const bool attention = job.grad_attention != nullptr, fused = draw.b <= kFusedExamples && !attention;
  const bool by_class = target.labels == nullptr || target.c < draw.b;  // whichever is the smaller product
  LargeJob large{};
  large.labels = {target.labels, target.ignore_index, draw.b, target.c};
  large.mass = target.mass, large.keep = target.keep, large.uniform = target.uniform;
  large.grad_rows = job.grad_rows, large.rows = job.rows, large.ignored = draw.ignored;
  large.n = draw.n, large.b = draw.b, large.c = target.c;
  large.gram = round_up(target.c, 16), large.height = large.gram;
  if (fused && job.grad_values != nullptr) large.height = gradient_height(job.operand, large.gram + width);
  large.target_pitch = round_up(target.c, 16);
  if (target.labels == nullptr)
    large.targets = pack_targets(context, job.operand, target, draw.b, draw.b, large.target_pitch);
  const int64_t most = std::max<int64_t>(1, kPartialBytes / (int64_t(sizeof(float)) * large.height * width));

  Recycled of_locations(context), of_block(context);
  float* partial = nullptr;
  int splits = 1;
  for_each_block(context, draw, job.operand, attention, most, [&](const Block& block) {
    large.block = block;
    const Steps steps(job, large);
    if (block.first == 0) {
      of_locations.restart();
      large.scores = pack_scores(of_locations.context, job, large);
      if (target.uniform != 0)
        large.score_sums =
            row_sums(of_locations.context, job.values, block.first_location, block.places, draw.b, target.c);
      if (job.grad_values != nullptr) {
        const int64_t here = most / block.places;
        splits = fused ? gradient_splits(context, job.operand, large, large.height, here)
                       : class_splits(context, large, steps.span, steps.rows, here);
        partial = of_locations.context.make<float>(int64_t(block.places) * splits * large.height * width);
      }
    }
    of_block.restart();
    const Context& here = of_block.context;
    const int64_t stored = int64_t(block.places) * block.stored;
    large.state = here.make<RowState>(stored);
    large.sums = here.make<float>(stored / kTile);
    Parts parts{nullptr, normaliser_parts(here, large)};
    parts.at = here.make<RowPart>(stored * parts.count);
    normalise(here, job.operand, large, by_class, parts);
    row_losses(here, job.operand, large, by_class, parts);
    if (job.total != nullptr)
      sum_up(here, large.sums, stored / kTile, block.first_location == 0 && block.first == 0, job.total);
    if (fused && job.grad_values != nullptr)
      gradient(here, job.operand, large, partial, splits, large.height, block.first == 0);
    else if (attention || job.grad_values != nullptr)
      through_differences(here, job, large, steps, partial, splits);
    if (attention)
      centre(here, draw, block, block.first == 0, job.scale,
             job.grad_attention + int64_t(block.first_location) * draw.b);
    if (block.last && job.grad_values != nullptr)
      add_up(here, partial, block.places, splits, large.height, width, fused ? large.gram : -1,
             fused ? &target : nullptr, job.scale, draw.b, target.c,
             job.grad_values + int64_t(block.first_location) * draw.b * target.c);
  });
}

}  // namespace multimix
