// Log-sum-exp of mixed scores, in parts of their classes: few rows are shared out among blocks by classes too.
//
// A block takes 128 rows (64 where float32 targets are mixed too). Their weights stay in shared memory if they fit;
// scores pass through it, 128 classes at a time; logits never leave registers. Each lane keeps the largest logit and
// the sum of exponentials of the logits it sees; the four lanes of a row are put together in the end.
//
// Cost per row: a product of 2 b c operations (4 b c by class: mixed targets too); bytes: 2 b of weights (4 b in
// float32), and scores from the L2 cache once per 128 rows. Lane-instructions on sm_80: 50 for 32 16-bit matrix
// instructions, then 5 per logit (a maximum, a multiply-add, an exponential, an addition, half a zero), 9 by class.
#include "cuda/device/team.h"
#include "cuda/host/dispatch.h"
#include "cuda/mixed/classes.h"

namespace multimix {
namespace {

constexpr size_t kResidentBytes = 48 << 10;  // of weights: two blocks of a multiprocessor keep theirs

template <Operand operand, bool by_class>
__global__ void __launch_bounds__(MixClasses<operand, by_class>::kThreads)
    normaliser_kernel(LargeJob job, bool resident, RowPart* parts, int part_count) {
  using Mix = MixClasses<operand, by_class>;
  using Shape = typename Mix::Shape;
  constexpr int kRows = Shape::kFragments * 2;  // of a lane
  const int tiles = job.block.stored / Shape::kRows, place = int(blockIdx.x) / tiles;
  const int row = int(blockIdx.x) % tiles * Shape::kRows;
  const Mix mix(job, place, row, resident);
  const int chunks = (job.c + kTile - 1) / kTile, part = blockIdx.y, blocks = gridDim.y;
  const int first = int(int64_t(chunks) * part / blocks), last = int(int64_t(chunks) * (part + 1) / blocks);
  const int warp_first = warp_row<Shape::kFragments>(), warp_class = warp_column();
  const float* inverse = job.block.inverse + int64_t(place) * job.block.stored + row + warp_first + lane_row();
  float top[kRows], z[kRows], mass[kRows], product[kRows];
#pragma unroll
  for (int q = 0; q < kRows; ++q) top[q] = kLeast, z[q] = 0, mass[q] = 0, product[q] = 0;
  typename Mix::Tile logits, mixed;
  Mix::clear(logits, mixed);
  int load_column = first * kTile, load_depth = 0, column = first * kTile, depth = 0;
  run_stages((last - first) * mix.depths(),
             [&](int, int buffer) {
               mix.load(buffer, load_column, load_depth);
               load_depth += Mix::S::kDepth;
               if (load_depth >= mix.width) load_depth = 0, load_column += kTile;
             },
             [&](int, int buffer) {
               const bool whole = mix.add(logits, mixed, buffer, depth);
               depth += Mix::S::kDepth;
               if (!whole) return;
               const int beyond =
                   job.c - column - warp_class - lane_column();  // classes of a lane from here on do not exist
               const bool all = column + kTile <= job.c;
               depth = 0, column += kTile;
               if (!all) {
                 __syncwarp();  // so that this is a branch: otherwise every logit costs a selection
#pragma unroll
                 for (int q = 0; q < kRows; ++q)
#pragma unroll
                   for (int n = 0; n < 8; ++n)
#pragma unroll
                     for (int e = 0; e < 2; ++e)
                       if (n * 8 + e >= beyond) logits.at[q / 2][n][q % 2 * 2 + e] = kLeast;
               }
#pragma unroll
               for (int q = 0; q < kRows; ++q) {
                 const float scale = inverse[q * 8] * kLog2E;
                 const float* half[8];
#pragma unroll
                 for (int n = 0; n < 8; ++n) half[n] = logits.at[q / 2][n] + q % 2 * 2;
                 float highest = kLeast;
#pragma unroll
                 for (int n = 0; n < 8; ++n) highest = fmaxf(highest, fmaxf(half[n][0], half[n][1]));
                 const float higher = fmaxf(top[q], highest * scale);
                 float sum = 0;
#pragma unroll
                 for (int n = 0; n < 8; ++n)
                   sum += fast_exp2(half[n][0] * scale - higher) + fast_exp2(half[n][1] * scale - higher);
                 z[q] = z[q] * fast_exp2(top[q] - higher) + sum;
                 if constexpr (by_class) {
                   product[q] += mass[q] == 0 ? 0.0f : mass[q] * (top[q] - higher);
#pragma unroll
                   for (int n = 0; n < 8; ++n)
#pragma unroll
                     for (int e = 0; e < 2; ++e) {
                       const float y = mixed.at[q / 2][n][q % 2 * 2 + e];
                       mass[q] += y;
                       // A class that is in no target may have a logit of minus infinity.
                       product[q] += y == 0 ? 0.0f : y * (half[n][e] * scale - higher);
                     }
                 }
                 top[q] = higher;
               }
               Mix::clear(logits, mixed);
             });
  // The four lanes of a row.
#pragma unroll
  for (int q = 0; q < kRows; ++q) {
    const float highest = quad_max(top[q]), sum = quad_sum(z[q] * fast_exp2(top[q] - highest));
    if constexpr (by_class) {
      product[q] += mass[q] == 0 ? 0.0f : mass[q] * (top[q] - highest);
      product[q] = quad_sum(product[q]), mass[q] = quad_sum(mass[q]);
    }
    if (lane_column() == 0) {
      const int64_t at = int64_t(place) * part_count + part * kWarpColumns + warp_class / (kTile / kWarpColumns);
      parts[at * job.block.stored + row + warp_first + q * 8 + lane_row()] = {highest, sum, mass[q], product[q]};
    }
  }
}

template <Operand operand, bool by_class>
void start(const Context& context, const LargeJob& job, Parts parts) {
  using Mix = MixClasses<operand, by_class>;
  const size_t weights = size_t(Mix::Shape::kRows) * job.block.width * sizeof(Element<operand>);
  const bool resident = weights <= kResidentBytes && Mix::bytes(job.block.width, true) <= context.shared_limit;
  launch(context, "normaliser", normaliser_kernel<operand, by_class>,
         Grid{int64_t(job.block.places) * (job.block.stored / Mix::Shape::kRows), parts.count / kWarpColumns},
         Mix::kThreads, Mix::bytes(job.block.width, resident), job, resident, parts.at, parts.count);
}

}  // namespace

int normaliser_parts(const Context& context, const LargeJob& job) {
  const int64_t tiles = int64_t(job.block.places) * (job.block.stored / kTile);
  return int(std::min(ceil_div(job.c, kTile), ceil_div(int64_t(context.processors) * 2, tiles))) * kWarpColumns;
}

void normalise(const Context& context, Operand operand, const LargeJob& job, bool by_class, Parts parts) {
  with_operand(operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    by_class ? start<o, true>(context, job, parts) : start<o, false>(context, job, parts);
  });
}

}  // namespace multimix
