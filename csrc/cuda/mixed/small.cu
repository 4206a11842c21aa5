// Mixed cross-entropy where all examples and classes of a tile of rows stay on chip: one persistent kernel.
//
// A block owns a location and every splits-th tile of its rows. Scores and targets (examples by classes), which it
// reads and makes ready itself (small_operands.h), stay in shared memory, the gradient's accumulators in registers
// (small_gradient.h), for the whole launch. Per tile: the weights are drawn into shared memory; each warp mixes the
// scores and the targets of 16 rows and some of the classes into registers, and turns them into the rows' losses and
// the gradient of their logits (delta); that goes through shared memory into the product M^T delta, of which each warp
// owns 32 examples and some of the classes. Partial sums are written once, and added up in a fixed order by add_up.
//
// Where one class has nearly all of some row of a tile, the tile goes through a second, exact pass (`refine`): its loss
// and gradient are near zero, and keep their digits.
//
// Labels are multiplied as one-hot targets: 0.8 lane-instructions for each score and 16 examples, on tensor cores that
// wait for weights, where a pass over the b weights with a sum for each class would take 3 to 4 for each weight.
//
// Cost per row: b gammas; 3 products of 2 b c operations (scores, targets, gradient; 4 in bfloat16, whose delta goes in
// two halves); 2 c exponentials. Lane-instructions in bfloat16 for b = 128 (sm_80): 13 for each score to mix it and its
// target, 8 for the gradient's product, about 35 from there to delta. Bytes: scores and targets per block, nothing per
// row (4 with row losses).
#include <algorithm>
#include <stdexcept>

#include "cuda/host/dispatch.h"
#include "cuda/host/launch.h"
#include "cuda/launchers.h"
#include "cuda/mixed/small_tile.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

// A tile's gradient is multiplied while the next tile is drawn by warps that are ahead: no barrier lies between.
template <Operand operand, Arithmetic arithmetic>
__global__ void __launch_bounds__(small_limits(operand, arithmetic).warps* kWarp, 1)
    mixed_small_kernel(const SmallJob job) {
  SmallBlock<operand, arithmetic> block(job);
  const int place = blockIdx.x / job.plan.splits, split = blockIdx.x % job.plan.splits;
  const int location = job.first_location + place;
  const int64_t stride = int64_t(job.plan.splits) * job.plan.rows, start = int64_t(split) * job.plan.rows;
  block.read(location);
  SmallGradient<operand, arithmetic> gradient(job);
  Compensated total;
  int tiles = 0;  // added up
  for (int64_t first = start;; first += stride) {
    const bool end = first >= job.draw.n;
    if (job.partial && first != start) {
      gradient.add_product(block.tile, block.delta);
      if (++tiles % kFlush == 0 || end) {
        gradient.flush(tiles <= kFlush);
        gradient.clear();
      }
    }
    if (end) break;
    block.tile = block.other(block.tile);
    draw_rows<operand, arithmetic>(job.draw, location, first, job.plan.rows, block.scratch,
                                   WeightTile<operand>{block.tile, job.plan.pitch, job.plan.width, block.inverse});
    total.add(block.rows_of_warp(first, location));
    __syncthreads();
    if (job.rows) block.store_rows(first, location);
  }
  if (job.sums) block.store_sum(total.sum);
}

template <Operand operand, Arithmetic arithmetic>
void launch_small(const Context& context, const SmallJob& job, int64_t blocks) {
  launch(context, "mixed_small", mixed_small_kernel<operand, arithmetic>, Grid{blocks}, job.plan.warps * kWarp,
         job.plan.layout.bytes, job);
}

}  // namespace

bool fits_on_chip(const Context& context, const LossJob& job) {
  if (job.grad_attention != nullptr) return false;
  return small_plan(context, job.draw, job.operand, job.target.c, job.grad_values != nullptr).fits;
}

void mixed_small(const Context& context, const LossJob& job) {
  const int b = job.draw.b, c = job.target.c;
  const SmallPlan plan = small_plan(context, job.draw, job.operand, c, job.grad_values != nullptr);
  if (!plan.fits) throw std::invalid_argument("scores: too many examples and classes for one pass");
  SmallJob small{};
  small.draw = job.draw, small.plan = plan, small.target = job.target, small.values = job.values;
  small.grad_rows = job.grad_rows, small.rows = job.rows;
  LossSlots slots(context, job);
  small.sums = slots.at(int64_t(plan.places) * plan.splits);
  small.partial =
      job.grad_values ? context.make<float>(int64_t(plan.places) * plan.splits * plan.classes * plan.width) : nullptr;
  for (int first = 0; first < job.draw.r; first += plan.places) {
    const int places = std::min(plan.places, job.draw.r - first);
    const int64_t blocks = int64_t(places) * plan.splits;
    small.first_location = first;
    with_operand(job.operand, [&](auto operand) {
      with_arithmetic(job.draw.arithmetic, [&](auto arithmetic) {
        launch_small<decltype(operand)::value, decltype(arithmetic)::value>(context, small, blocks);
      });
    });
    const bool last = first + places == job.draw.r;
    if (!job.grad_values) {
      if (last) finish_loss(context, slots);
      continue;
    }
    const PartialSums sums{small.partial, places, plan.splits, plan.classes, plan.width};
    GradientOutput out{};
    out.at = job.grad_values + int64_t(first) * b * c;
    out.b = b, out.c = c, out.scale = job.scale;
    out.values = job.values, out.first_location = first;
    add_up(context, sums, out, nullptr, last ? &slots : nullptr);
  }
}

}  // namespace multimix
