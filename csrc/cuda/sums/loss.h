// The loss from the sums of its rows that blocks leave, each in a slot of its own.
#pragma once

#include "cuda/device/primitives.h"
#include "cuda/host/jobs.h"
#include "cuda/host/memory.h"

namespace multimix {

// What a block adds to its slot: launches that follow each other on a stream add in their order. `first`: of the first
// launch, which has the most blocks and writes what the slots held before.
MULTIMIX_DEVICE void add_to_slot(double* slot, double sum, bool first) { *slot = first ? sum : *slot + sum; }

// Slots, and what becomes of their sum.
struct LossSum {
  const double* slots;
  int64_t count;
  LossOutput out;
  const int64_t* labels;  // (b), or null
  const bool* ignored;    // (b), or null
  int64_t ignore_index;
  int b;
};
constexpr int kLossThreads = 256;  // that add up: the same of any block, so that the sum has the same bits

// The slots of a call.
class LossSlots {
 public:
  LossSlots(const Context& context, const LossJob& job) : context_(context), job_(job) {}

  bool wanted() const { return job_.loss.at != nullptr; }
  // As many as the first launch asks for; null if no loss is wanted.
  double* at(int64_t count);
  LossSum sum() const;

 private:
  const Context& context_;
  const LossJob& job_;
  double* slots_ = nullptr;
  int64_t count_ = 0;
};

// loss.cu: the loss, if it is wanted, by a launch of its own.
void finish_loss(const Context& context, const LossSlots& slots);

// By a whole block, which has room in shared memory for a double for each of kLossThreads. 8 bytes and an addition for
// each slot.
MULTIMIX_DEVICE void finish_loss(const LossSum& job) {
  double* sums = reinterpret_cast<double*>(shared_memory());
  bool any_label = job.labels == nullptr, any_example = job.ignored == nullptr;
  for (int i = threadIdx.x; i < job.b; i += blockDim.x) {
    if (job.labels != nullptr) any_label |= job.labels[i] != job.ignore_index;
    if (job.ignored != nullptr) any_example |= !job.ignored[i];
  }
  any_label = __syncthreads_or(any_label), any_example = __syncthreads_or(any_example);
  const int own = threadIdx.x;
  if (own < kLossThreads) {
    double sum = 0;
#pragma unroll 4
    for (int64_t i = own; i < job.count; i += kLossThreads) sum += job.slots[i];
    sums[own] = sum;
  }
  for (int half = kLossThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (own < half) sums[own] += sums[own + half];
  }
  if (own == 0) *job.out.at = job.out.mean && !(any_label && any_example) ? kNaN : float(sums[0] * job.out.scale);
}

}  // namespace multimix
