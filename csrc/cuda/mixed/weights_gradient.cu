// The gradient by the weights from differences, up to what centring removes: delta S^T + keep (-log softmax) Y^T.
//
// A block owns 128 rows by 128 examples; the classes of a call are the depth of both products. -log softmax is never
// negative: its sum does not cancel, whatever scores have in common. What all smoothed targets share is left out.
//
// Cost per row: 2 products of 2 b c operations; bytes: differences once per 128 examples, scores and targets once per
// 128 rows, all from the L2 cache, and 4 written per weight.
#include "cuda/host/dispatch.h"
#include "cuda/mixed/large.h"
#include "cuda/mixed/scores.h"

namespace multimix {
namespace {

template <Operand operand>
__global__ void __launch_bounds__(TileShape<operand, false>::kThreads)
    weights_gradient_kernel(LargeJob job, Differences from, int first_class) {
  using T = Element<operand>;
  using S = Stage<operand>;
  using Shape = TileShape<operand, false>;
  using Sums = typename Shape::Sums;
  constexpr int kThreads = Shape::kThreads;
  const int tiles = from.rows / kTile, place = int(blockIdx.x) / tiles, row = int(blockIdx.x) % tiles * kTile;
  const int example = int(blockIdx.y) * kTile, width = job.block.width;
  T* stages = reinterpret_cast<T*>(shared_memory());
  const Matrix<T> scores = job.score_rows<T>(place), targets = job.target_rows<T>();
  const int64_t start = int64_t(place) * from.rows * from.span;
  const float* mass = job.mass + int64_t(place) * job.b;
  const T* delta = static_cast<const T*>(from.delta) + start;
  const T* entropy = static_cast<const T*>(from.entropy) + start;

  Sums total;  // (rows, examples)
  total.clear();
  const int depths = (min(from.span, job.c - first_class) + S::kDepth - 1) / S::kDepth;
  run_stages(
      2 * depths,
      [&](int s, int buffer) {
        const int depth = (s < depths ? s : s - depths) * S::kDepth, column = first_class + depth;
        T* left = stages + buffer * 2 * S::kAlongSize;
        T* right = left + S::kAlongSize;
        const Matrix<T> difference{s < depths ? delta : entropy, 0, from.span, from.rows, from.span};
        copy_rows<kTile, S::kDepth, kThreads>(left, S::kAlong, difference, row, depth);
        if (s < depths)
          copy_rows<S::kDepth, kTile, kThreads>(right, S::kAcross, scores, column, example);
        else if (job.labels.labels != nullptr)
          write_ones<operand, kTile, S::kDepth, kThreads>(right, S::kAlong, job.labels, example, column);
        else
          copy_rows<kTile, S::kDepth, kThreads>(right, S::kAlong, targets, example, column);
      },
      [&](int s, int buffer) {
        const T* left = stages + buffer * 2 * S::kAlongSize;
        const T* right = left + S::kAlongSize;
        if (kScoreScale<operand> != 1.0f && s == depths)
          Sums::for_rows([&](int q) { total.for_each(q, [&](int, float& x) { x *= 1.0f / kScoreScale<operand>; }); });
        if (s < depths)
          total.template multiply<false, true>(left, S::kAlong, right, S::kAcross, S::kDepth);
        else
          total.template multiply<false, false>(left, S::kAlong, right, S::kAlong, S::kDepth);
      });
  Sums::for_rows([&](int q) {
    const int64_t k = int64_t(place) * job.block.stored + from.first_row + row + Sums::first_row() + q * 8;
    const float inverse = job.block.inverse[k], sum = inverse == 0 ? 0.0f : 1 / inverse;
    Sums::for_pairs_within(width - example - Sums::warp_column(), [&](int p) {
      const int i = example + Sums::first_column() + p * 8;
      float2& to = *reinterpret_cast<float2*>(job.block.gradient + k * width + i);
      const float2 own = total.pair(q, p), before = first_class == 0 ? make_float2(0, 0) : to;
      // A label that does not exist has a NaN mass.
      const float x = i < job.b ? own.x * sum + mass[i] * 0 : 0.0f;
      const float y = i + 1 < job.b ? own.y * sum + mass[i + 1] * 0 : 0.0f;
      to = make_float2(before.x + x, before.y + y);
    });
  });
}

}  // namespace

void weights_gradient(const Context& context, Operand operand, const LargeJob& job, const Differences& from,
                      int first_class) {
  with_operand(operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    using S = Stage<o>;
    launch(context, "weights_gradient", weights_gradient_kernel<o>,
           Grid{int64_t(job.block.places) * (from.rows / kTile), int(ceil_div(job.block.width, kTile))},
           TileShape<o, false>::kThreads, 4 * S::kAlongSize * sizeof(Element<o>), job, from, first_class);
  });
}

}  // namespace multimix
