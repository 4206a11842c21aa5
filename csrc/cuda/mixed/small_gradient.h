// The gradient of one block of the single-pass mixed cross-entropy: accumulators that stay in registers from tile to
// tile, and reach memory seldom.
#pragma once

#include "cuda/mixed/small_plan.h"
#include "cuda/products/fragments.h"

namespace multimix {

// Tiles between two additions of the accumulators to the partial sums: tensor cores truncate what they add.
constexpr int kFlush = 256;

template <Operand operand, Arithmetic arithmetic>
struct SmallGradient {
  using P = Product<operand>;
  using T = Element<operand>;
  // The 8 bits of bfloat16 are too few for delta: a second half holds what the first leaves out.
  static constexpr bool kTwoHalves = operand == Operand::kBF16;
  static constexpr int kDepth = small_limits(operand, arithmetic).depth;
  static constexpr int kUnroll = sizeof(T) == 4 ? 1 : 2;  // as registers allow

  const SmallJob& job;
  int pairs;                  // 16 classes each
  float at[kDepth][2][2][4];  // (32 examples, kDepth x 16 classes), transposed in memory

  MULTIMIX_DEVICE explicit SmallGradient(const SmallJob& job) : job(job), pairs(job.plan.classes / 16) { clear(); }

  // A warp's part of the gradient: 32 examples, every stride-th 16 classes.
  struct Part {
    int example, pair, stride;
  };
  MULTIMIX_DEVICE Part part() const {
    const int warp = threadIdx.x / kWarp, strips = job.plan.width / 32, stride = job.plan.warps / strips;
    const int pair = warp / strips;
    return {warp % strips * 32, pair < stride ? pair : pairs, stride};
  }

  // += M^T delta
  MULTIMIX_DEVICE void add_product(const T* tile, const T* delta) {
    const Part own = part();
    if (operand != Operand::kFP32 && own.pair + (kDepth - 1) * own.stride < pairs)  // which has no registers to spare
      add_product<true>(own, tile, delta);
    else if (own.pair < pairs)
      add_product<false>(own, tile, delta);
  }
  template <bool all>
  MULTIMIX_DEVICE void add_product(const Part& own, const T* tile, const T* delta) {
    const int pitch = job.plan.class_pitch;
    const T *weights = tile + own.example, *d_first = delta + own.pair * 16;
#pragma unroll kUnroll
    for (int k = 0; k < job.plan.rows; k += 16, weights += 16 * job.plan.pitch, d_first += 16 * pitch) {
      typename P::A a[2];
      typename P::B b[2];
      P::load_a_transposed(a[0], weights, job.plan.pitch);
      P::load_a_transposed(a[1], weights + 16, job.plan.pitch);
#pragma unroll
      for (int d = 0; d < kDepth; ++d) {
        if (!all && own.pair + d * own.stride >= pairs) break;
#pragma unroll
        for (int half = 0; half < (kTwoHalves ? 2 : 1); ++half) {
          P::load_b_transposed(b, d_first + d * own.stride * 16 + half * job.plan.rows * pitch, pitch);
#pragma unroll
          for (int s = 0; s < 2; ++s) P::add(at[d][s][0], a[s], b[0]), P::add(at[d][s][1], a[s], b[1]);
        }
      }
    }
  }

  MULTIMIX_DEVICE void clear() {
#pragma unroll
    for (int d = 0; d < kDepth; ++d)
#pragma unroll
      for (int x = 0; x < 16; ++x) at[d][x / 8][x / 4 % 2][x % 4] = 0;
  }

  // Writes the sums to the block's partial sum, or adds them to it.
  MULTIMIX_DEVICE void flush(bool first) {
    const Part own = part();
    float* out = job.partial + int64_t(blockIdx.x) * job.plan.classes * job.plan.width;
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      const int pair = own.pair + d * own.stride;
      if (pair >= pairs) break;
#pragma unroll
      for (int x = 0; x < 16; ++x) {
        const int i = own.example + x / 8 * 16 + x % 4 / 2 * 8 + lane_row();
        const int j = pair * 16 + x / 4 % 2 * 8 + lane_column() + x % 2;
        float& to = out[j * job.plan.width + i];
        const float value = at[d][x / 8][x / 4 % 2][x % 4];
        to = first ? value : to + value;
      }
    }
  }
};

}  // namespace multimix
