// The attention's gradient from that of the weights.
#include <algorithm>

#include "cuda/device/team.h"
#include "cuda/host/launch.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 32;

// partial (places, splits, width): sums over a split's rows of plain_i (g_i - sum_j mu_j g_j) for g = d loss / d mu.
// mu is a plain, unrounded. Per weight 12 bytes from the L2 cache and 7 operations.
__global__ void __launch_bounds__(kThreads)
    centre_kernel(Block block, int splits, int b, const float* attention, float* partial) {
  float* means = reinterpret_cast<float*>(shared_memory());
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t place = blockIdx.x / splits;
  const float* plain = block.plain + place * block.stored * block.width;
  const float* gradient = block.gradient + place * block.stored * block.width;
  attention += (block.first_location + place) * b;
  partial += int64_t(blockIdx.x) * block.width;
  bool first = true;
  for (int start = int(blockIdx.x) % splits * kRows; start < block.rows; start += splits * kRows) {
    const int rows = min(kRows, block.rows - start);
    for (int row = warp; row < rows; row += kThreads / kWarp) {
      const int64_t at = int64_t(start + row) * block.width;
      float sum = 0, total = 0;
#pragma unroll 4
      for (int i = lane; i < b; i += kWarp) {
        // Without attention `plain` may be infinite.
        const float a = attention[i], mu = a == 0 ? 0.0f : a * plain[at + i];
        // An example that takes no part may have the gradient of NaN.
        sum += mu == 0 ? 0.0f : mu * gradient[at + i], total += mu;
      }
      sum = warp_sum(sum), total = warp_sum(total);
      // Weights sum to one but for rounding, which what all g have in common would amplify.
      if (lane == 0) means[row] = total == 0 ? 0.0f : sum / total;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < b; i += kThreads) {
      const int64_t at = int64_t(start) * block.width + i;
      float sum = 0;
#pragma unroll 4
      for (int row = 0; row < rows; ++row) {
        const float share = plain[at + int64_t(row) * block.width];
        const float centred = gradient[at + int64_t(row) * block.width] - means[row];
        sum += share == 0 || centred == 0 ? 0.0f : share * centred;
      }
      partial[i] = first ? sum : partial[i] + sum;
    }
    __syncthreads();
    first = false;
  }
}

}  // namespace

void centre(const Context& context, const Draw& draw, const Block& block, bool first, Scale scale,
            float* grad_attention) {
  const int64_t tiles = ceil_div(block.rows, kRows);
  const int splits =
      int(std::max<int64_t>(1, std::min(tiles, ceil_div(int64_t(context.processors) * 4, block.places))));
  float* partial = context.make<float>(int64_t(block.places) * splits * block.width);
  launch(context, "centre", centre_kernel, Grid{int64_t(block.places) * splits}, kThreads, kRows * sizeof(float), block,
         splits, draw.b, draw.attention, partial);
  // One example has all the weight, exactly: no sum, as rounding says otherwise.
  const PartialSums sums{partial, block.places, draw.m == 1 ? 0 : splits, 1, block.width};
  GradientOutput out{};
  out.at = grad_attention, out.b = draw.b, out.c = 1;
  out.scale = scale, out.accumulate = !first;
  add_up(context, sums, out);
}

}  // namespace multimix
