// Log-sum-exp of mixed scores, in parts of their classes: few rows are shared out among blocks by classes too.
//
// A block takes 128 rows (64 where float32 targets are mixed too). Their weights stay in shared memory if they fit;
// scores pass through it, 128 classes at a time; logits never leave registers. Each lane keeps the largest logit and
// the sum of exponentials of the logits it sees; the four lanes of a row are put together in the end. A block that has
// all classes of its rows goes on with their losses (row_loss.h).
//
// Cost per row: a product of 2 b c operations (4 b c by class: mixed targets too); bytes: 2 b of weights (4 b in
// float32), and scores from the L2 cache once per 128 rows. Lane-instructions on sm_80: 50 for 32 16-bit matrix
// instructions, then 5 per logit (a maximum, a multiply-add, an exponential, an addition, half a zero), 9 by class.
#include "cuda/host/dispatch.h"
#include "cuda/mixed/classes.h"
#include "cuda/mixed/row_loss.h"

namespace multimix {
namespace {

constexpr size_t kResidentBytes = 48 << 10;  // of weights: two blocks of a multiprocessor keep theirs

template <Operand operand, bool by_class>
__global__ void __launch_bounds__(MixClasses<operand, by_class>::kThreads)
    normaliser_kernel(LargeJob job, bool resident, RowPart* parts, int part_count) {
  using Mix = MixClasses<operand, by_class>;
  using Shape = typename Mix::Shape;
  using Tile = typename Mix::Tile;
  const int tiles = job.block.stored / Shape::kRows, place = int(blockIdx.x) / tiles;
  const int row = int(blockIdx.x) % tiles * Shape::kRows;
  const Mix mix(job, place, row, resident);
  const int chunks = (job.c + kTile - 1) / kTile, part = blockIdx.y, blocks = gridDim.y;
  const int first = int(int64_t(chunks) * part / blocks), last = int(int64_t(chunks) * (part + 1) / blocks);
  const float* inverse = job.block.inverse + int64_t(place) * job.block.stored + row + Tile::first_row();
  RowPart own[Tile::kRows];  // what this lane has seen of each of its rows
  Tile::for_rows([&](int q) { own[q] = {kLeast, 0, 0, 0}; });
  Tile logits, mixed;
  Mix::clear(logits, mixed);
  int load_column = first * kTile, load_depth = 0, column = first * kTile, depth = 0;
  const auto load = [&](int, int buffer) {
    mix.load(buffer, load_column, load_depth);
    load_depth += Mix::S::kDepth;
    if (load_depth >= mix.width) load_depth = 0, load_column += kTile;
  };
  run_stages((last - first) * mix.depths(), load, [&](int, int buffer) {
    const bool whole = mix.add(logits, mixed, buffer, depth);
    depth += Mix::S::kDepth;
    if (!whole) return;
    const int beyond = job.c - column - Tile::first_column();  // classes of a lane from here on do not exist
    const bool all = column + kTile <= job.c;
    depth = 0, column += kTile;
    if (!all) {
      __syncwarp();  // so that this is a branch: otherwise every logit costs a selection
      Tile::for_rows([&](int q) {
        logits.for_each(q, [&](int j, float& logit) {
          if (j >= beyond) logit = kLeast;
        });
      });
    }
    Tile::for_rows([&](int q) {
      const float scale = inverse[q * 8] * kLogitUnit<operand>, before = own[q].top;
      const float top = fmaxf(before, logits.row_max(q, kLeast) * scale);
      const float z = logits.row_sum(q, [&](float logit) { return fast_exp2(logit * scale - top); });
      own[q].z = own[q].z * fast_exp2(before - top) + z;
      if constexpr (by_class) {
        float& mass = own[q].mass;
        float& product = own[q].product;
        product += mass == 0 ? 0.0f : mass * (before - top);
        const auto add = [&](float logit, float y) {
          mass += y;
          product += y == 0 ? 0.0f : y * (logit * scale - top);  // a class that is in no target may be masked
        };
        Tile::for_pairs([&](int p) {
          const float2 l = logits.pair(q, p), y = mixed.pair(q, p);
          add(l.x, y.x), add(l.y, y.y);
        });
      }
      own[q].top = top;
    });
    Mix::clear(logits, mixed);
  });
  RowPart* to = parts + (int64_t(place) * part_count + part * kWarpColumns + Tile::side()) * job.block.stored + row +
                Tile::first_row();
  Tile::for_rows([&](int q) {  // of which four lanes have seen parts
    RowPart x = own[q];
    const float top = quad_max(x.top);
    x.z = quad_sum(x.z * fast_exp2(x.top - top));
    if constexpr (by_class) {
      x.product = quad_sum(x.product + (x.mass == 0 ? 0.0f : x.mass * (x.top - top)));
      x.mass = quad_sum(x.mass);
    }
    x.top = top;
    if (lane_column() == 0) to[q * 8] = x;
  });
  if (blocks > 1) return;
  __syncthreads();
  RowLoss<operand, by_class>::run(job, place, row, parts, part_count);
}

template <Operand operand, bool by_class>
void start(const Context& context, const LargeJob& job, Parts parts) {
  using Mix = MixClasses<operand, by_class>;
  const size_t weights = size_t(Mix::Shape::kRows) * job.block.width * sizeof(Element<operand>);
  const bool resident = weights <= kResidentBytes && Mix::bytes(job.block.width, true) <= context.shared_limit;
  size_t shared = Mix::bytes(job.block.width, resident);
  if (has_losses(parts)) shared = std::max(shared, RowLoss<operand, by_class>::kBytes);
  launch(context, "normaliser", normaliser_kernel<operand, by_class>,
         Grid{int64_t(job.block.places) * (job.block.stored / Mix::Shape::kRows), parts.count / kWarpColumns},
         Mix::kThreads, shared, job, resident, parts.at, parts.count);
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
