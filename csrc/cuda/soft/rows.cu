// One row of logits at a time: log-sum-exp, and for labels the loss and all gradients.
//
// A team takes a row: a warp while four of them fit in kNarrowBytes of shared memory, else the whole block. The row's
// logits and weights come by asynchronous copies while the row before is at work (row_stager.h); then all passes read
// shared memory (row_loss.h). Rows that do not fit go through it in chunks of classes, twice.
//
// Cost per row: c logits read from device memory (twice in chunks), c floats of gradient written, b weights read from
// the L2 cache, where another kernel drew them; 2 c exponentials, b additions. Lane-instructions in 16 bits, as
// compiled for sm_80: 11 per class for the loss, 13 for the gradient; 5 per weight, about 100 per class that occurs.
#include <algorithm>

#include "cuda/host/dispatch.h"
#include "cuda/soft/row_loss.h"

namespace multimix {
namespace {

constexpr size_t kNarrowBytes = 64 << 10;
constexpr int kWideThreads = 256;    // of a team that is a block
constexpr int kNarrowThreads = 128;  // of four warps

// Rows of one team, a part of one ahead of what is at work.
template <class T, class W, bool wide>
class RowWorker {
 public:
  MULTIMIX_DEVICE RowWorker(const RowsJob& job, unsigned char* shared, int rank)
      : job_(job),
        team_{{}, rank, wide ? kWideThreads : kWarp, shared},
        stager_(job, team_, shared + 64),
        loss_(job, team_, stager_.rest()) {}

  // Tasks first, first + step ...; the sum of their losses.
  MULTIMIX_DEVICE double run(int first, int step, int tasks) {
    const bool ahead = job_.plan.buffers == 2;
    typename RowStager<T, W, wide>::Staged coming{};
    RowCursor at{first, 0, 0, 0};
    if (at.task < tasks) coming = stager_.stage(at);
    commit_copies();
    while (at.task < tasks) {
      const auto staged = coming;
      const RowCursor next = at.next(job_, step);
      if (ahead) {
        if (next.task < tasks) coming = stager_.stage(next);
        commit_copies();
        wait_copies<1>();
      } else {
        wait_copies<0>();
      }
      const Chunk<T> chunk = stager_.arrive(staged, at);
      team_.sync();
      process(chunk, at);
      team_.sync();
      if (!ahead) {
        if (next.task < tasks) coming = stager_.stage(next);
        commit_copies();
      }
      at = next;
    }
    return total_;
  }

 private:
  MULTIMIX_DEVICE void process(const Chunk<T>& chunk, const RowCursor& at) {
    const SoftBlock& block = job_.block;
    const int place = at.place(job_), row = at.row(job_), chunks = job_.plan.chunks;
    const int64_t stored = int64_t(place) * block.stored + row;
    float* weights_gradient = block.weights_gradient ? block.weights_gradient + stored * block.width : nullptr;
    if (row >= block.rows) {  // only where weights have a gradient
      if (at.part == 0)
        for (int i = team_.rank; i < block.width; i += team_.size) weights_gradient[i] = 0;
      return;
    }
    const W* weights = stager_.weights(at);
    const float inverse = block.inverse[stored];
    if (at.part < chunks) {
      if (at.part == 0) loss_.begin(weights);
      loss_.add(chunk);
      if (at.part < chunks - 1) return;
      loss_.complete(inverse);
      if (job_.records) {
        if (team_.rank == 0) job_.records[stored] = loss_.record;
        return;
      }
      if (chunks > 1) return;
    }
    const int64_t index = block.index(place, row);
    loss_.against_labels(chunk, weights, index, inverse, weights_gradient);
    if (at.part < job_.parts() - 1) return;
    const float loss = loss_.finish(inverse);
    if (team_.rank == 0) {
      if (block.losses) block.losses[index] = loss;
      total_ += loss;
    }
  }

  const RowsJob& job_;
  Team<std::bool_constant<wide>> team_;
  RowStager<T, W, wide> stager_;
  RowLoss<T, W, wide> loss_;
  double total_ = 0;
};

template <class T, class W, bool wide>
__global__ void __launch_bounds__(wide ? kWideThreads : kNarrowThreads, wide ? 3 : 6)
    soft_rows_kernel(const RowsJob job) {
  const int team = wide ? 0 : threadIdx.x / kWarp, teams = wide ? 1 : kNarrowThreads / kWarp;
  const int rank = wide ? threadIdx.x : threadIdx.x % kWarp;
  const int own = blockIdx.x * teams + team;
  const int tasks = job.block.places * (job.block.weights_gradient ? job.block.stored : job.block.rows);
  RowWorker<T, W, wide> worker(job, shared_memory() + team * job.plan.team, rank);
  const double total = worker.run(own, gridDim.x * teams, tasks);
  if (job.sums && rank == 0) add_to_slot(job.sums + own, total, job.block.is_first());
}

// The widest rows that two buffers of a block hold; else one; else chunks.
RowPlan wide_plan(const Context& context, const SoftBlock& block, int64_t element, bool mixes) {
  for (int buffers = 2; buffers > 0; --buffers) {
    const RowPlan plan(block.c, buffers, block, element, mixes);
    if (plan.team <= context.shared_limit) return plan;
  }
  const size_t fixed = RowPlan(8, 2, block, element, mixes).team, per_class = 2 * element + (mixes ? 4 : 0);
  if (fixed > context.shared_limit) throw std::runtime_error("soft_cross_entropy: too many examples for this device");
  return {int((context.shared_limit - fixed) / per_class) / 8 * 8 + 8, 2, block, element, mixes};
}

}  // namespace

void soft_rows(const Context& context, SoftBlock block, const LabelOrder* labels, RowRecord* records,
               LossSlots& slots) {
  const int64_t element = block.logits.dtype == DType::kFloat32 ? 4 : 2;
  if (!labels) block.gradient = block.weights_gradient = nullptr;
  const bool mixes = block.gradient != nullptr;
  RowPlan plan(block.c, 2, block, element, mixes);
  constexpr int kTeams = kNarrowThreads / kWarp;
  const bool wide = kTeams * plan.team > std::min(context.shared_limit, kNarrowBytes);
  if (wide) plan = wide_plan(context, block, element, mixes);
  const int teams = wide ? 1 : kTeams;
  const size_t shared = teams * plan.team;
  const int64_t tasks = int64_t(block.places) * (block.weights_gradient ? block.stored : block.rows);
  const int64_t per_processor = std::clamp<int64_t>(context.shared_limit / shared, 1, 8);
  const int64_t grid = std::min(ceil_div(tasks, teams), context.processors * per_processor);
  double* sums = labels ? slots.at(grid * teams) : nullptr;
  const RowsJob job{block, labels ? *labels : LabelOrder{}, plan, records, sums};
  const auto start = [&](auto logit, auto weight) {
    using T = decltype(logit);
    using W = decltype(weight);
    launch(context, "soft_rows", wide ? soft_rows_kernel<T, W, true> : soft_rows_kernel<T, W, false>, {grid},
           wide ? kWideThreads : kNarrowThreads, shared, job);
  };
  if (block.logits.dtype == DType::kFloat32)
    start(float{}, float{});
  else if (block.logits.dtype == DType::kBFloat16)
    labels ? start(BF16{}, float{}) : start(BF16{}, BF16{});
  else
    labels ? start(F16{}, float{}) : start(F16{}, F16{});
}

}  // namespace multimix
