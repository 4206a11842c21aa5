// The gradient of scores of any number of examples from differences: partial sums of delta^T M.
//
// A block owns 128 classes by 128 examples of a location, and a run of its rows; both operands lie across the rows.
// Cost per row: a product of 2 b c operations; bytes: differences once per 128 examples, weights once per 128 classes,
// all from the L2 cache. A 16-bit warp of 64 x 64 reads 128 bytes of shared memory per 16x8x16 product.
#include "cuda/host/dispatch.h"
#include "cuda/mixed/large.h"

namespace multimix {
namespace {

// Blocks that live on a multiprocessor, by their registers.
constexpr int resident_blocks(Operand operand) {
  return operand == Operand::kFP32 ? 1 : operand == Operand::kTF32 ? 2 : 3;
}

template <Operand operand>
__global__ void __launch_bounds__(TileShape<operand, false>::kThreads, resident_blocks(operand))
    class_gradient_kernel(LargeJob job, Differences from, int first_class, float* partial, int splits, int height,
                          bool first) {
  using T = Element<operand>;
  using S = Stage<operand>;
  using Shape = TileShape<operand, false>;
  using Sums = typename Shape::Sums;
  const int place = int(blockIdx.x) / splits, split = int(blockIdx.x) % splits, width = job.block.width;
  const int columns = (width + kTile - 1) / kTile;
  const int tile_class = int(blockIdx.y) / columns * kTile, example = int(blockIdx.y) % columns * kTile;
  T* stages = reinterpret_cast<T*>(shared_memory());
  const Matrix<T> weights = job.weights<T>(place);
  const Matrix<T> delta{static_cast<const T*>(from.delta) + int64_t(place) * from.rows * from.span, 0, from.span,
                        from.rows, from.span};
  const int row_class = first_class + tile_class + Sums::warp_row();  // the first of this warp
  const int columns_left = width - example - Sums::warp_column();     // examples of this warp that exist
  float* own =
      partial + (int64_t(blockIdx.x) * height + row_class + lane_row()) * width + width - columns_left + lane_column();

  Sums total;  // (classes, examples)
  total.clear();
  const int units = from.rows / S::kDepth;
  const int begin = int(int64_t(units) * split / splits), end = int(int64_t(units) * (split + 1) / splits);
  run_stages(
      end - begin,
      [&](int s, int buffer) {
        const int row = (begin + s) * S::kDepth;
        T* stage = stages + buffer * 2 * S::kAcrossSize;
        copy_rows<S::kDepth, kTile, Shape::kThreads>(stage, S::kAcross, delta, row, tile_class);
        copy_rows<S::kDepth, kTile, Shape::kThreads>(stage + S::kAcrossSize, S::kAcross, weights, from.first_row + row,
                                                     example);
      },
      [&](int, int buffer) {
        const T* stage = stages + buffer * 2 * S::kAcrossSize;
        total.template multiply<true, true>(stage, S::kAcross, stage + S::kAcrossSize, S::kAcross, S::kDepth);
      });
  Sums::for_pairs_within(height - row_class, columns_left, [&](int q, int p) {
    float2& to = *reinterpret_cast<float2*>(own + int64_t(q * 8) * width + p * 8);
    const float2 x = total.pair(q, p), before = first ? make_float2(0, 0) : to;
    to = make_float2(before.x + x.x, before.y + x.y);
  });
}

}  // namespace

int class_splits(const Context& context, const LargeJob& job, int classes, int rows, int64_t most) {
  const int64_t tiles = job.block.places * ceil_div(job.block.width, kTile) * ceil_div(classes, kTile);
  const int64_t blocks = int64_t(context.processors) * 2;
  return int(std::max<int64_t>(1, std::min({blocks / tiles, most, ceil_div(rows, kRowTile)})));
}

void class_gradient(const Context& context, Operand operand, const LargeJob& job, const Differences& from,
                    int first_class, float* partial, int splits, int height, bool first) {
  with_operand(operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    using S = Stage<o>;
    const int columns = int(ceil_div(job.block.width, kTile));
    launch(context, "class_gradient", class_gradient_kernel<o>,
           Grid{int64_t(job.block.places) * splits, from.span / kTile * columns}, TileShape<o, false>::kThreads,
           4 * S::kAcrossSize * sizeof(Element<o>), job, from, first_class, partial, splits, height, first);
  });
}

}  // namespace multimix
