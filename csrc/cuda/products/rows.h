// Products of each row of a tensor with each example: gradients by the weights.
#pragma once

#include "cuda/host/launch.h"
#include "cuda/products/operands.h"

namespace multimix {

template <Operand operand>
struct RowProductsJob {
  RowSource source;                   // (r, n, columns)
  Matrix<Element<operand>> examples;  // (places, b, columns)
  const float* shift;                 // (places, stored), subtracted from the rows, or null
  int64_t first;
  int first_location, rows, stored, row_tiles, width;
  float* out;  // (places, stored, width)
};

// Steps of float32 that are added up before they are added to the others: one chain of thousands of additions would
// lose more digits than products do.
constexpr int kChain = 16;

template <class Sums>
MULTIMIX_DEVICE void add_and_clear(Sums& total, Sums& sum) {
  Sums::for_rows([&](int q) {
    total.for_each(q, [&](int column, float& x) {
      float& own = sum.element(q, column / 8, column % 8);
      x += own, own = 0;
    });
  });
}

// out = finish(source examples^T), of a source that is made finite if the finish says so: rows past the last real one
// and examples past the last are products of zeros.
//
// Cost: per row 2 b columns operations; the source is read once for each 128 (64 in float32) examples, the examples
// once for each row tile from the L2 cache; 4 b bytes written into the L2 cache.
template <Operand operand, class Finish>
__global__ void __launch_bounds__(kBlockThreads, 2) row_products_kernel(RowProductsJob<operand> job, Finish finish) {
  using T = Element<operand>;
  using Tile = BlockTile<operand, UnbiasedProduct<operand>>;  // `centre` adds up the results of all rows
  using Sums = typename Tile::Sums;
  constexpr BlockShape kShape = Tile::kShape;
  constexpr int kRowsSize = kShape.rows * Tile::kAlong, kExamplesSize = kShape.columns * Tile::kAlong;
  T* rows_tiles = reinterpret_cast<T*>(shared_memory());  // (2, rows, depth)
  T* examples_tiles = rows_tiles + 2 * kRowsSize;         // (2, examples, depth)
  const int place = blockIdx.x / job.row_tiles, first_row = int(blockIdx.x % job.row_tiles) * kShape.rows;
  const int first_example = blockIdx.y * kShape.columns;
  const int64_t base = int64_t(place) * job.stored;
  const Matrix<T> examples = job.examples.at(place);
  const float* shift = job.shift ? job.shift + base : nullptr;
  const int steps = (job.source.columns + kShape.depth - 1) / kShape.depth;
  RowsLoader<operand, kShape.rows, kShape.depth, Finish::kFinite> loader;

  constexpr bool kChains = operand == Operand::kFP32;
  Sums sum, total;
  sum.clear(), total.clear();
  const auto load = [&](int step, int buffer) {
    copy_rows<kShape.columns, kShape.depth, kBlockThreads>(examples_tiles + buffer * kExamplesSize, Tile::kAlong,
                                                           examples, first_example, step * kShape.depth);
    loader.load(job.source, job.first_location + place, job.first, first_row, job.rows, step * kShape.depth, nullptr,
                shift);
    if (step == 0) loader.store(rows_tiles, Tile::kAlong);
  };
  run_stages(steps, load, [&](int step, int buffer) {
    Tile::template multiply<false, false>(sum, rows_tiles + buffer * kRowsSize, Tile::kAlong,
                                          examples_tiles + buffer * kExamplesSize, Tile::kAlong);
    if (step + 1 < steps) loader.store(rows_tiles + (buffer ^ 1) * kRowsSize, Tile::kAlong);
    if (kChains && step % kChain == kChain - 1) add_and_clear(total, sum);
  });
  if (kChains) add_and_clear(total, sum);
  const int row = first_row + Sums::first_row(), example = first_example + Sums::first_column();
  float* out = job.out + (base + row) * job.width + example;
  Sums::for_rows([&](int q) {
    const int k = row + q * 8;
    const auto of_row = finish.row(base + k, k < job.rows, job.first_location + place, job.first + k);
    Sums::for_pairs([&](int p) {
      const int i = example + p * 8;
      const float2 x = kChains ? total.pair(q, p) : sum.pair(q, p);
      if (i < job.width)
        *reinterpret_cast<float2*>(out + int64_t(q * 8) * job.width + p * 8) = {finish(of_row, i, x.x),
                                                                                finish(of_row, i + 1, x.y)};
    });
  });
}

template <Operand operand, class Finish>
void row_products(const Context& context, const char* name, const Block& block, const RowSource& source,
                  const Matrix<Element<operand>>& examples, const float* shift, const Finish& finish) {
  constexpr BlockShape kShape = block_shape(operand);
  const RowProductsJob<operand> job{source,
                                    examples,
                                    shift,
                                    block.first,
                                    block.first_location,
                                    block.rows,
                                    block.stored,
                                    block.stored / kShape.rows,
                                    block.width,
                                    block.gradient};
  const size_t shared = sizeof(Element<operand>) * 2 * (kShape.rows + kShape.columns) * BlockTile<operand>::kAlong;
  launch(context, name, row_products_kernel<operand, Finish>,
         {int64_t(block.places) * job.row_tiles, int(ceil_div(block.width, kShape.columns))}, kBlockThreads, shared,
         job, finish);
}

}  // namespace multimix
