// Soft cross-entropy of any head's logits, against targets that are never written out.
//
// Super-blocks of rows: their weights are drawn into a scratch in the L2 cache, where the attention's gradient needs
// them too. By label one kernel does the rest (rows.cu); by probabilities it leaves records of the rows to a
// product of weights and targets (probabilities.cu). Both are bound by memory: logits read once or twice,
// gradients written.
#include <stdexcept>

#include "cuda/host/memory.h"
#include "cuda/launchers.h"
#include "cuda/soft/soft.h"
#include "cuda/sums/sums.h"

namespace multimix {

namespace {

SoftBlock soft_block(const LossJob& job, const float* mass, Operand operand, const Block& weights) {
  SoftBlock block{};
  block.logits = job.values;
  block.n = job.draw.n, block.b = job.draw.b, block.c = job.target.c;
  block.first = weights.first, block.first_location = weights.first_location;
  block.places = weights.places, block.rows = weights.rows, block.stored = weights.stored, block.width = weights.width;
  block.keep = job.target.keep, block.uniform = job.target.uniform, block.mass = mass;
  block.operand = operand, block.weights = weights.weights, block.inverse = weights.inverse;
  block.grad_rows = job.grad_rows, block.scale = job.scale;
  block.losses = job.rows, block.gradient = job.grad_values, block.weights_gradient = weights.gradient;
  return block;
}

}  // namespace

void soft(const Context& context, const LossJob& job) {
  const Draw& draw = job.draw;
  const Target& target = job.target;
  if (job.values.dtype != dtype_of(job.operand)) throw std::runtime_error("logits: not of the operand's type");
  const bool attention = job.grad_attention != nullptr;
  // By label there is no product, and nothing to gain from rounded weights.
  const Operand operand = target.labels ? Operand::kFP32 : job.operand;
  const Masses mass = masses(context, target, draw.b);
  LabelOrder labels{};
  SoftTargets targets{};
  if (target.labels)
    labels = order_labels(context, target, draw.b);
  else
    targets = soft_targets(context, target, mass.bad, operand, draw.b);
  LossSlots slots(context, job);
  Recycled of_block(context);
  for_each_block(context, draw, operand, attention, draw.r, [&](const Block& weights) {
    of_block.restart();
    const Context& here = of_block.context;
    const SoftBlock block = soft_block(job, mass.at, operand, weights);
    if (target.labels) {
      soft_rows(here, block, &labels, nullptr, slots);
    } else {
      RowRecord* records = here.make<RowRecord>(int64_t(weights.places) * weights.stored);
      soft_rows(here, block, nullptr, records, slots);
      soft_probabilities(here, block, operand, weights, targets, records, slots);
    }
    if (attention)
      centre(here, draw, weights, weights.first == 0, job.scale,
             job.grad_attention + int64_t(weights.first_location) * draw.b);
  });
  finish_loss(context, slots);
}

}  // namespace multimix
