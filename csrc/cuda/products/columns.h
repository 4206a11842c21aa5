// Weights times the rows of a matrix: mixed embeddings, mixed targets.
#pragma once

#include "cuda/host/launch.h"
#include "cuda/products/operands.h"

namespace multimix {

// Rows of a super-block by columns of `values`. A task is a row tile and one of `groups` ranges of column tiles.
template <Operand operand>
struct MixColumnsJob {
  Matrix<Element<operand>> weights, values;
  int places, row_tiles, column_tiles, groups;
};

// (places, stored, columns) = weights values, a tile at a time handed to `finish`, which has kOwn floats of shared
// memory for each thread; not yet divided by the weights' sums.
//
// Cost: per row and column 2 b operations; from the L2 cache b elements for each row tile's column, and b weights for
// each row and group (each column tile where they do not fit in the slots). A step of depth 32 in 16 bits, as compiled
// for sm_80: per warp 32 mma, 12 ldmatrix, about 190 instructions with the copies of the next operands, one barrier.
template <Operand operand, class Finish>
__global__ void __launch_bounds__(kBlockThreads, 2) mix_columns_kernel(MixColumnsJob<operand> job, Finish finish) {
  using T = Element<operand>;
  using Tile = BlockTile<operand>;
  constexpr BlockShape kShape = Tile::kShape;
  constexpr int kWeightsSize = kShape.rows * Tile::kAlong, kValuesSize = kShape.depth * Tile::kAcrossColumns;
  T* weights_tiles = reinterpret_cast<T*>(shared_memory());       // (slots, rows, depth)
  T* values_tiles = weights_tiles + kShape.slots * kWeightsSize;  // (stages, depth, columns)
  float* own = reinterpret_cast<float*>(values_tiles + kShape.stages * kValuesSize) + threadIdx.x;
  const int steps = (job.weights.columns + kShape.depth - 1) / kShape.depth;
  const bool resident = steps <= kShape.slots;
  const int tasks = job.places * job.row_tiles * job.groups;
  for (int task = blockIdx.x; task < tasks; task += gridDim.x) {
    const int group = task % job.groups, row_tile = task / job.groups % job.row_tiles;
    const int place = task / job.groups / job.row_tiles;
    const int first = int(int64_t(job.column_tiles) * group / job.groups);
    const int last = int(int64_t(job.column_tiles) * (group + 1) / job.groups);
    const Matrix<T> values = job.values.at(place);
    Matrix<T> weights = job.weights.at(place);
    weights.data += int64_t(row_tile * kShape.rows) * weights.pitch;

    int load_column = first * kShape.columns, load_depth = 0;
    const auto load = [&](int s, int stage) {
      if (!resident || s < steps)
        copy_rows<kShape.rows, kShape.depth, kBlockThreads, true>(weights_tiles + (resident ? s : stage) * kWeightsSize,
                                                                  Tile::kAlong, weights, 0, load_depth);
      copy_rows<kShape.depth, kShape.columns, kBlockThreads>(values_tiles + stage * kValuesSize, Tile::kAcrossColumns,
                                                             values, load_depth, load_column);
      load_depth += kShape.depth;
      if (load_depth >= job.weights.columns) load_depth = 0, load_column += kShape.columns;
    };
    int tile = first, step = 0;
    typename Tile::Sums sum;
    sum.clear();
    finish.begin(own);
    run_stages<kShape.stages>((last - first) * steps, load, [&](int, int stage) {
      Tile::template multiply<false, true>(sum, weights_tiles + (resident ? step : stage) * kWeightsSize, Tile::kAlong,
                                           values_tiles + stage * kValuesSize, Tile::kAcrossColumns);
      if (++step < steps) return;
      finish.tile(own, sum, place, row_tile, tile);
      step = 0, ++tile;
      sum.clear();
    });
    finish.end(own, place, row_tile, group);
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
void mix_columns(const Context& context, const char* name, const Block& block, const Matrix<Element<operand>>& values,
                 int groups, const Finish& finish) {
  constexpr BlockShape kShape = block_shape(operand);
  const MixColumnsJob<operand> job{weight_matrix<operand>(block),
                                   values,
                                   block.places,
                                   block.stored / kShape.rows,
                                   int(ceil_div(values.columns, kShape.columns)),
                                   groups};
  using Tile = BlockTile<operand>;
  const size_t shared = sizeof(Element<operand>) * (kShape.slots * kShape.rows * Tile::kAlong +
                                                    kShape.stages * kShape.depth * Tile::kAcrossColumns) +
                        sizeof(float) * Finish::kOwn * kBlockThreads;
  const int64_t tasks = int64_t(job.places) * job.row_tiles * groups;
  launch(context, name, mix_columns_kernel<operand, Finish>, {std::min<int64_t>(tasks, 2 * context.processors)},
         kBlockThreads, shared, job, finish);
}

}  // namespace multimix
