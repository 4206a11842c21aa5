#include <algorithm>

#include "cuda/host/launch.h"
#include "cuda/sums/mass.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

constexpr int kThreads = 256;

Grid grid_for(const Context& context, int64_t warps) {
  return {std::min(ceil_div(warps * kWarp, kThreads), int64_t(context.processors) * 8)};
}

MULTIMIX_DEVICE int64_t first_warp() { return (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp; }
MULTIMIX_DEVICE int64_t warp_stride() { return int64_t(gridDim.x) * kThreads / kWarp; }

// One warp per row: read once.
__global__ void row_sums_kernel(Strided from, int first, int64_t count, int rows, int columns, float* sums) {
  const int lane = threadIdx.x % kWarp;
  for (int64_t row = first_warp(); row < count; row += warp_stride()) {
    float sum = 0;
    for (int j = lane; j < columns; j += kWarp) sum += read(from, first + row / rows, row % rows, j);
    sum = warp_sum(sum);
    if (lane == 0) sums[row] = sum;
  }
}

// One warp per example.
__global__ void masses_kernel(Target target, int b, float* mass, bool* bad) {
  for (int64_t i = first_warp(); i < b; i += warp_stride()) {
    const float x = target_mass(target, int(i));
    if (threadIdx.x % kWarp == 0) mass[i] = x, bad[i] = x == kBadMass;
  }
}

}  // namespace

float* row_sums(const Context& context, const Strided& from, int first, int places, int rows, int columns) {
  const int64_t count = int64_t(places) * rows;
  float* sums = context.make<float>(count);
  launch(context, "row_sums", row_sums_kernel, grid_for(context, count), kThreads, 0, from, first, count, rows, columns,
         sums);
  return sums;
}

Masses masses(const Context& context, const Target& target, int b) {
  float* mass = context.make<float>(b);
  bool* bad = context.make<bool>(b);
  launch(context, "masses", masses_kernel, grid_for(context, b), kThreads, 0, target, b, mass, bad);
  return {mass, bad};
}

}  // namespace multimix
