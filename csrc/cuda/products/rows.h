// Products of each row of a tensor with each example: gradients by the weights.
#pragma once

#include "cuda/host/launch.h"
#include "cuda/products/rows_loader.h"

namespace multimix {

template <Operand operand>
struct RowProductsJob {
  RowSource source;                          // (r, n, columns)
  OperandMatrix<Element<operand>> examples;  // (places, b, columns)
  const float* shift;                        // (places, stored), subtracted from the rows, or null
  int64_t first;
  int first_location, rows, stored, row_tiles, width;
  float* out;  // (places, stored, width)
};

// out = finish(source examples^T), of a source that is made finite if the finish says so: rows past the last real one
// and examples past the last are products of zeros.
//
// Cost: per row 2 b columns operations; the source is read once for each 128 (64 in float32) examples, the examples
// once for each row tile from the L2 cache; 4 b bytes written into the L2 cache.
template <Operand operand, class Finish>
__global__ void __launch_bounds__(kBlockThreads, 2) row_products_kernel(RowProductsJob<operand> job, Finish finish) {
  using T = Element<operand>;
  using A = Accumulators<operand>;
  constexpr BlockShape kShape = BlockTile<operand>::kShape;
  constexpr int kPitch = kShape.depth + BlockTile<operand>::kPad;
  constexpr int kRowsSize = kShape.rows * kPitch, kExamplesSize = kShape.columns * kPitch;
  T* rows_tiles = reinterpret_cast<T*>(shared_memory());
  T* examples_tiles = rows_tiles + 2 * kRowsSize;
  const int place = blockIdx.x / job.row_tiles, first_row = int(blockIdx.x % job.row_tiles) * kShape.rows;
  const int first_example = blockIdx.y * kShape.columns;
  const int64_t base = int64_t(place) * job.stored;
  const OperandMatrix<T> examples = job.examples.at(place);
  const float* shift = job.shift ? job.shift + base : nullptr;
  const int steps = (job.source.columns + kShape.depth - 1) / kShape.depth;
  RowsLoader<operand, kShape.rows, kShape.depth, Finish::kFinite> loader;

  const auto fetch = [&](int step) {
    copy_tile<kShape.columns, kShape.depth>(examples_tiles + step % 2 * kExamplesSize, kPitch, examples, first_example,
                                            step * kShape.depth);
    commit_copies();
    loader.load(job.source, job.first_location + place, job.first, first_row, job.rows, step * kShape.depth, nullptr,
                shift);
  };
  A sum;
  sum.clear();
  fetch(0);
  loader.store(rows_tiles, kPitch);
  for (int step = 0; step < steps; ++step) {
    wait_copies<0>();
    __syncthreads();
    if (step + 1 < steps) fetch(step + 1);
    sum.template add<false, false>(rows_tiles + step % 2 * kRowsSize, kPitch, examples_tiles + step % 2 * kExamplesSize,
                                   kPitch);
    if (step + 1 < steps) loader.store(rows_tiles + (step + 1) % 2 * kRowsSize, kPitch);
  }
#pragma unroll
  for (int m = 0; m < A::kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + A::row(m, half);
      const auto of_row = finish.row(base + row, row < job.rows, job.first_location + place, job.first + row);
#pragma unroll
      for (int n = 0; n < A::kN; ++n) {
        const int i = first_example + A::column(n);
        if (i < job.width)
          *reinterpret_cast<float2*>(job.out + (base + row) * job.width + i) = {
              finish(of_row, i, sum.d[m][n][2 * half]), finish(of_row, i + 1, sum.d[m][n][2 * half + 1])};
      }
    }
}

template <Operand operand, class Finish>
void row_products(const Context& context, const char* name, const Block& block, const RowSource& source,
                  const OperandMatrix<Element<operand>>& examples, const float* shift, const Finish& finish) {
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
  const size_t shared =
      sizeof(Element<operand>) * 2 * (kShape.rows + kShape.columns) * (kShape.depth + BlockTile<operand>::kPad);
  launch(context, name, row_products_kernel<operand, Finish>,
         {int64_t(block.places) * job.row_tiles, int(ceil_div(block.width, kShape.columns))}, kBlockThreads, shared,
         job, finish);
}

}  // namespace multimix
