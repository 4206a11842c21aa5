#include "cuda/host/launch.h"
#include "cuda/sums/loss.h"

namespace multimix {
namespace {

__global__ void __launch_bounds__(kLossThreads) finish_loss_kernel(LossSum job) { finish_loss(job); }

}  // namespace

double* LossSlots::at(int64_t count) {
  if (!wanted()) return nullptr;
  if (slots_ == nullptr) slots_ = context_.make<double>(count), count_ = count;
  return slots_;
}

LossSum LossSlots::sum() const {
  const LossJob& job = job_;
  return {slots_, count_, job.loss, job.target.labels, job.draw.ignored, job.target.ignore_index, job.draw.b};
}

void finish_loss(const Context& context, const LossSlots& slots) {
  if (!slots.wanted()) return;
  launch(context, "finish_loss", finish_loss_kernel, Grid{1}, kLossThreads, kLossThreads * sizeof(double), slots.sum());
}

}  // namespace multimix
