// Weights times the rows of a matrix: mixed embeddings, mixed targets.
#pragma once

#include "cuda/host/launch.h"
#include "cuda/products/operands.h"

namespace multimix {

// Rows of a super-block by columns of `values`. A task is a row tile and one of `groups` ranges of column tiles.
template <Operand operand>
struct MixColumnsJob {
  OperandMatrix<Element<operand>> weights, values;
  int places, row_tiles, column_tiles, groups;
};

// (places, stored, columns) = weights values, a tile at a time handed to `finish`, which has kOwn floats of shared
// memory for each thread; not yet divided by the weights' sums.
//
// Cost: per row and column 2 b operations; from the L2 cache b elements for each row tile's column, and b weights for
// each row and group (each column tile where they do not fit in the slots). A step of depth 32 in 16 bits, as compiled
// for sm_80: per warp 32 mma, 12 ldmatrix, 193 instructions with the copies of the next operands, one barrier.
template <Operand operand, class Finish>
__global__ void __launch_bounds__(kBlockThreads, 2) mix_columns_kernel(MixColumnsJob<operand> job, Finish finish) {
  using T = Element<operand>;
  constexpr BlockShape kShape = BlockTile<operand>::kShape;
  constexpr int kWeightsPitch = kShape.depth + BlockTile<operand>::kPad;
  constexpr int kValuesPitch = kShape.columns + BlockTile<operand>::kTransposedPad;
  constexpr int kWeightsSize = kShape.rows * kWeightsPitch, kValuesSize = kShape.depth * kValuesPitch;
  T* weights_tiles = reinterpret_cast<T*>(shared_memory());
  T* values_tiles = weights_tiles + kShape.slots * kWeightsSize;
  float* own = reinterpret_cast<float*>(values_tiles + kShape.stages * kValuesSize) + threadIdx.x;
  const int steps = (job.weights.columns + kShape.depth - 1) / kShape.depth;
  const bool resident = steps <= kShape.slots;
  const int tasks = job.places * job.row_tiles * job.groups;
  for (int task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int group = task % job.groups, row_tile = task / job.groups % job.row_tiles;
    const int place = task / job.groups / job.row_tiles;
    const int first = int(int64_t(job.column_tiles) * group / job.groups);
    const int last = int(int64_t(job.column_tiles) * (group + 1) / job.groups);
    const OperandMatrix<T> weights = job.weights.at(place), values = job.values.at(place);

    int next_tile = first, next_step = 0, next_stage = 0;
    const auto next = [](int stage) { return stage + 1 == BlockTile<operand>::kShape.stages ? 0 : stage + 1; };
    const auto prefetch = [&] {
      if (next_tile < last) {
        if (!resident || next_tile == first)
          copy_tile<kShape.rows, kShape.depth, true>(weights_tiles + (resident ? next_step : next_stage) * kWeightsSize,
                                                     kWeightsPitch, weights, row_tile * kShape.rows,
                                                     next_step * kShape.depth);
        copy_tile<kShape.depth, kShape.columns>(values_tiles + next_stage * kValuesSize, kValuesPitch, values,
                                                next_step * kShape.depth, next_tile * kShape.columns);
        if (++next_step == steps) next_step = 0, ++next_tile;
        next_stage = next(next_stage);
      }
      commit_copies();
    };

    finish.begin(own);
    for (int k = 0; k < kShape.stages - 1; ++k) prefetch();
    int stage = 0;
    for (int tile = first; tile < last; ++tile) {
      Accumulators<operand> sum;
      sum.clear();
      for (int step = 0; step < steps; ++step) {
        wait_copies<kShape.stages - 2>();
        __syncthreads();
        prefetch();
        sum.template add<false, true>(weights_tiles + (resident ? step : stage) * kWeightsSize, kWeightsPitch,
                                      values_tiles + stage * kValuesSize, kValuesPitch);
        stage = next(stage);
      }
      finish.tile(own, sum, place, row_tile, tile);
    }
    finish.end(own, place, row_tile, group);
    __syncthreads();  // before the next task's copies
  }
}

// `groups` so that small numbers of rows fill the machine too.
template <Operand operand>
int column_groups(const Context& context, const Block& block, int columns) {
  constexpr BlockShape kShape = block_shape(operand);
  const int64_t row_tiles = int64_t(block.places) * (block.stored / kShape.rows);
  return int(std::min(ceil_div(columns, kShape.columns), ceil_div(2 * context.processors, row_tiles)));
}

template <Operand operand, class Finish>
void mix_columns(const Context& context, const char* name, const Block& block,
                 const OperandMatrix<Element<operand>>& values, int groups, const Finish& finish) {
  constexpr BlockShape kShape = block_shape(operand);
  const MixColumnsJob<operand> job{weight_matrix<operand>(block),
                                   values,
                                   block.places,
                                   block.stored / kShape.rows,
                                   int(ceil_div(values.columns, kShape.columns)),
                                   groups};
  const size_t shared = sizeof(Element<operand>) *
                            (kShape.slots * kShape.rows * (kShape.depth + BlockTile<operand>::kPad) +
                             kShape.stages * kShape.depth * (kShape.columns + BlockTile<operand>::kTransposedPad)) +
                        sizeof(float) * Finish::kOwn * kBlockThreads;
  const int64_t tasks = int64_t(job.places) * job.row_tiles * groups;
  launch(context, name, mix_columns_kernel<operand, Finish>, {std::min<int64_t>(tasks, 2 * context.processors)},
         kBlockThreads, shared, job, finish);
}

}  // namespace multimix
