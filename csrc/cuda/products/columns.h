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

  struct Task {
    int place, row_tile, group, first, last;   // column tiles
    Matrix<Element<operand>> weights, values;  // of the row tile; of the place
  };
  MULTIMIX_DEVICE Task task(int index) const {
    Task task{};
    task.group = index % groups, task.row_tile = index / groups % row_tiles, task.place = index / groups / row_tiles;
    task.first = int(int64_t(column_tiles) * task.group / groups);
    task.last = int(int64_t(column_tiles) * (task.group + 1) / groups);
    task.values = values.at(task.place), task.weights = weights.at(task.place);
    constexpr BlockShape kShape = BlockTile<operand>::kShape;
    task.weights.data += int64_t(task.row_tile * kShape.rows) * weights.pitch;
    return task;
  }
};

// visit(row, column, x) of the elements of a tile to which values that are not finite add x, NaN or infinity: nothing
// where their weight is zero.
template <Operand operand, class T, class Visit>
MULTIMIX_DEVICE void for_not_finite(const Matrix<T>& weights, const Matrix<T>& values, int first_column, Visit visit) {
  constexpr BlockShape kShape = BlockTile<operand>::kShape;
  const int column = first_column + int(threadIdx.x) % kShape.columns;
  if (column >= values.columns) return;
#pragma unroll 1
  for (int row = int(threadIdx.x) / kShape.columns; row < kShape.rows; row += kBlockThreads / kShape.columns) {
    float sum = 0;
#pragma unroll 1
    for (int i = 0; i < values.rows; ++i) {
      const float x = to_float(values.data[int64_t(i) * values.pitch + column]);
      if (is_finite(x) || (values.skip && values.skip[i])) continue;
      const float weight = to_float(weights.data[int64_t(row) * weights.pitch + i]);
      if (weight != 0) sum += weight * x;
    }
    if (!is_finite(sum)) visit(row, column, sum);
  }
}

// (places, stored, columns) = weights values, a tile at a time handed to `finish`, which has kOwn floats of shared
// memory for each thread; not yet divided by the weights' sums. Finish::kCareful: a weight of zero times NaN or
// infinity is zero. A block that finds a result not finite, for an operation each, makes all of its tiles again, such
// values apart; `finish.element` replaces what they reach.
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
  if constexpr (Finish::kCareful) *own = 0;  // 1 once a result of this thread is not finite
  const int tasks = job.places * job.row_tiles * job.groups;
  for (bool careful = false;; careful = true) {
    for (int at = blockIdx.x; at < tasks; at += gridDim.x) {
      const auto task = job.task(at);

      int load_column = task.first * kShape.columns, load_depth = 0;
      const auto load = [&](int s, int stage) {
        if (!resident || s < steps)
          copy_rows<kShape.rows, kShape.depth, kBlockThreads>(weights_tiles + (resident ? s : stage) * kWeightsSize,
                                                              Tile::kAlong, task.weights, 0, load_depth);
        copy_rows<kShape.depth, kShape.columns, kBlockThreads>(values_tiles + stage * kValuesSize, Tile::kAcrossColumns,
                                                               task.values, load_depth, load_column);
        load_depth += kShape.depth;
        if (load_depth >= job.weights.columns) load_depth = 0, load_column += kShape.columns;
      };
      int tile = task.first, step = 0;
      typename Tile::Sums sum;
      sum.clear();
      finish.begin(own);
      run_stages<kShape.stages>((task.last - task.first) * steps, load, [&](int, int stage) {
        T* values_tile = values_tiles + stage * kValuesSize;
        if (Finish::kCareful && careful) {
          keep_finite<kShape.depth, kShape.columns, kBlockThreads>(values_tile, Tile::kAcrossColumns);
          __syncthreads();
        }
        Tile::template multiply<false, true>(sum, weights_tiles + (resident ? step : stage) * kWeightsSize,
                                             Tile::kAlong, values_tile, Tile::kAcrossColumns);
        if (++step < steps) return;
        if constexpr (Finish::kCareful)
          if (!sum.all_finite()) *own = 1;
        finish.tile(own, sum, task.place, task.row_tile, tile);
        if constexpr (Finish::kCareful) {
          if (careful) {
            __syncthreads();
            for_not_finite<operand>(task.weights, task.values, tile * kShape.columns,
                                    [&](int row, int column, float x) {
                                      finish.element(task.place, task.row_tile * kShape.rows + row, column, x);
                                    });
          }
        }
        step = 0, ++tile;
        sum.clear();
      });
      finish.end(own, task.place, task.row_tile, task.group);
    }
    if constexpr (!Finish::kCareful) return;
    if (careful || !__syncthreads_or(*own != 0)) return;
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
