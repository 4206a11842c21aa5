// The gradient by the logits, for any number of examples: T softmax less the mixed target, of some rows and some
// classes at a time, written as operands of the products that follow it (class_gradient.cu, weights_gradient.cu).
//
// Cost per row: products of 4 b c operations; bytes: an operand written per logit, two if -log softmax is wanted too;
// weights and scores from the L2 cache once per tile of 128 x 128. Lane-instructions on sm_80: about 16 per logit with
// -log softmax, beside those of the products.
#include "cuda/host/dispatch.h"
#include "cuda/mixed/classes.h"
#include "cuda/mixed/scores.h"

namespace multimix {
namespace {

template <Operand operand>
__global__ void __launch_bounds__(MixClasses<operand, true>::kThreads, operand == Operand::kFP32 ? 2 : 1)
    difference_kernel(LargeJob job, Differences to, int first_class) {
  using Mix = MixClasses<operand, true>;
  using T = typename Mix::T;
  using Shape = typename Mix::Shape;
  constexpr float kMost = operand == Operand::kF16 ? 6e4f : 1e30f;  // so that no product with zero is one of infinity
  const int tiles = to.rows / Shape::kRows, place = int(blockIdx.x) / tiles;
  const int tile_row = int(blockIdx.x) % tiles * Shape::kRows, row = to.first_row + tile_row;
  const int tile_class = int(blockIdx.y) * kTile, column = first_class + tile_class;
  const Mix mix(job, place, row, false);
  using Tile = typename Mix::Tile;
  Tile logits, mixed;
  Mix::clear(logits, mixed);
  run_stages(
      mix.depths(), [&](int s, int buffer) { mix.load(buffer, column, s * Mix::S::kDepth); },
      [&](int s, int buffer) { mix.add(logits, mixed, buffer, s * Mix::S::kDepth); });
  const RowState* states = job.state + int64_t(place) * job.block.stored + row + Tile::first_row();
  const int64_t at =
      (int64_t(place) * to.rows + tile_row + Tile::first_row()) * to.span + tile_class + Tile::first_column();
  const int beyond = job.c - column - Tile::first_column();  // classes of this lane from here on do not exist
  Tile::for_rows([&](int q) {
    const RowState k = states[q * 8];
    const float plain = k.scale == 0 ? 0.0f : k.target * kLogitUnit<operand> / k.scale;  // factor * inverse
    const float keep = job.keep * k.target;
    const float spread = job.uniform * (job.labels.labels != nullptr ? k.probability : plain);
    const bool none = k.scale == 0 || job.c == 1;
    T* delta = static_cast<T*>(to.delta) + at + int64_t(q) * 8 * to.span;
    T* entropy = to.entropy == nullptr ? nullptr : static_cast<T*>(to.entropy) + at + int64_t(q) * 8 * to.span;
    Tile::for_pairs([&](int p) {
      float d[2], h[2];  // the derivatives by two logits, and their -log softmax as targets multiply it
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const bool inside = p * 8 + e < beyond;
        const float l = logits.element(q, p, e) * k.scale - k.lse, y = mixed.element(q, p, e) * keep + spread;
        d[e] = !inside ? 0.0f : none ? k.probability * 0 : fast_exp2(l) * k.probability - y;
        h[e] = !inside || none || l < kLeastLogit ? 0.0f : fminf(l * -kLn2, kMost) * plain * job.keep;
        if constexpr (operand == Operand::kTF32) d[e] = round_tf32(d[e]), h[e] = round_tf32(h[e]);
      }
      store_pair(delta + p * 8, d[0], d[1]);
      if (entropy != nullptr) store_pair(entropy + p * 8, h[0], h[1]);
    });
  });
}

}  // namespace

void differences(const Context& context, Operand operand, const LargeJob& job, const Differences& to, int first_class) {
  with_operand(operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    using Mix = MixClasses<o, true>;
    launch(context, "difference", difference_kernel<o>,
           Grid{int64_t(job.block.places) * (to.rows / Mix::Shape::kRows), to.span / kTile}, Mix::kThreads,
           Mix::bytes(job.block.width, false), job, to, first_class);
  });
}

}  // namespace multimix
