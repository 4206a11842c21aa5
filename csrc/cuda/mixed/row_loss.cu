// The losses of rows whose classes are shared out among several blocks of the normaliser.
#include "cuda/host/dispatch.h"
#include "cuda/mixed/row_loss.h"

namespace multimix {
namespace {

template <Operand operand, bool by_class>
__global__ void __launch_bounds__(RowLoss<operand, by_class>::kThreads)
    row_loss_kernel(LargeJob job, const RowPart* parts, int part_count) {
  constexpr int kRows = RowLoss<operand, by_class>::kRows;
  const int tiles = job.block.stored / kRows;
  RowLoss<operand, by_class>::run(job, int(blockIdx.x) / tiles, int(blockIdx.x) % tiles * kRows, parts, part_count);
}

template <Operand operand, bool by_class>
void start(const Context& context, const LargeJob& job, Parts parts) {
  using Loss = RowLoss<operand, by_class>;
  launch(context, "row_loss", row_loss_kernel<operand, by_class>,
         Grid{int64_t(job.block.places) * (job.block.stored / Loss::kRows)}, Loss::kThreads, Loss::kBytes, job,
         parts.at, parts.count);
}

}  // namespace

void row_losses(const Context& context, Operand operand, const LargeJob& job, bool by_class, Parts parts) {
  with_operand(operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    by_class ? start<o, true>(context, job, parts) : start<o, false>(context, job, parts);
  });
}

}  // namespace multimix
