#include <algorithm>

#include "cuda/device/read.h"
#include "cuda/device/team.h"
#include "cuda/host/blocks.h"
#include "cuda/host/dispatch.h"
#include "cuda/host/launch.h"
#include "cuda/products/fragments.h"
#include "cuda/products/pack.h"

namespace multimix {
namespace {

constexpr int kThreads = 256;
constexpr int kMostParts = 1024;

// Blocks for `count` elements, one for a thread: many elements are shared out in strides.
Grid grid_for(const Context& context, int64_t count) {
  return {std::min(ceil_div(count, kThreads), int64_t(context.processors) * 8)};
}

MULTIMIX_DEVICE int64_t first_index() { return int64_t(blockIdx.x) * blockDim.x + threadIdx.x; }
MULTIMIX_DEVICE int64_t index_stride() { return int64_t(gridDim.x) * blockDim.x; }

// One element per thread: read, rounded, written. `finite`: what is not is zero.
template <Operand operand, bool finite>
__global__ void pack_kernel(Strided from, int first, int64_t count, int rows, int columns, int height, int pitch,
                            Element<operand>* to) {
  for (int64_t at = first_index(); at < count; at += index_stride()) {
    const int j = int(at % pitch), i = int(at / pitch % height);
    const bool inside = i < rows && j < columns;
    const float x = inside ? read(from, first + at / pitch / height, i, j) : 0.0f;
    to[at] = round_operand<operand>(finite && !is_finite(x) ? 0.0f : x);
  }
}

// Largest magnitudes of parts: one read of grad_rows.
__global__ void largest_kernel(Strided from, int64_t n, int64_t count, float* parts) {
  float largest = 0;
  for (int64_t at = first_index(); at < count; at += index_stride())
    largest = fmaxf(largest, fabsf(read(from, 0, at / n, at % n)));
  largest = whole_block<kThreads>(shared_memory()).max(largest);
  if (threadIdx.x == 0) parts[blockIdx.x] = largest;
}

// The largest of the parts, by each block for itself; grad_rows read again and written relative to it.
__global__ void relative_kernel(Strided from, int64_t n, int64_t count, const float* parts, int part_count,
                                float* values, float* largest) {
  float scale = 0;
  for (int i = threadIdx.x; i < part_count; i += blockDim.x) scale = fmaxf(scale, parts[i]);
  scale = whole_block<kThreads>(shared_memory()).max(scale);
  if (!(scale > 0)) scale = 1;
  for (int64_t at = first_index(); at < count; at += index_stride()) values[at] = read(from, 0, at / n, at % n) / scale;
  if (first_index() == 0) *largest = scale;
}

template <bool finite>
void* pack_elements(const Context& context, Operand operand, const Strided& from, int first, int places, int rows,
                    int columns, int height, int pitch) {
  const int64_t count = int64_t(places) * height * pitch;
  void* to = context.memory(size_t(count * element_bytes(operand)));
  with_operand(operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    launch(context, "pack", pack_kernel<o, finite>, grid_for(context, count), kThreads, 0, from, first, count, rows,
           columns, height, pitch, static_cast<Element<o>*>(to));
  });
  return to;
}

}  // namespace

void* pack(const Context& context, Operand operand, const Strided& from, int first, int places, int rows, int columns,
           int height, int pitch) {
  return pack_elements<false>(context, operand, from, first, places, rows, columns, height, pitch);
}

void* pack_targets(const Context& context, Operand operand, const Target& target, int b, int height, int pitch) {
  return pack_elements<true>(context, operand, target.probabilities, 0, 1, b, target.c, height, pitch);
}

Relative relative(const Context& context, const Strided& grad_rows, int64_t r, int64_t n) {
  const int64_t count = r * n;
  const Relative result{context.make<float>(count), context.make<float>(1)};
  Grid grid = grid_for(context, count);
  grid.x = std::min<int64_t>(grid.x, kMostParts);
  float* parts = context.make<float>(grid.x);
  const size_t shared = kThreads / kWarp * sizeof(float);
  launch(context, "largest", largest_kernel, grid, kThreads, shared, grad_rows, n, count, parts);
  launch(context, "relative", relative_kernel, grid, kThreads, shared, grad_rows, n, count, parts, int(grid.x),
         result.values, result.largest);
  return result;
}

}  // namespace multimix
