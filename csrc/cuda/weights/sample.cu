// Weights in memory: the `sample` operator, and the scratch of the other operators.
//
// Persistent blocks draw tiles of rows. Bytes: those of the weights, written once. Operations: one gamma per weight,
// see draw.h. A row has to fit in shared memory with 4 bytes for each example: b up to 24 thousand in 99 KiB.
#include "cuda/host/blocks.h"
#include "cuda/host/dispatch.h"
#include "cuda/host/launch.h"
#include "cuda/launchers.h"
#include "cuda/weights/draw.h"

namespace multimix {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / kWarp;

// Blocks that live on a multiprocessor, by their registers.
constexpr int resident_blocks(Arithmetic arithmetic, RowLayout layout) {
  return arithmetic == Arithmetic::kLogSpace || layout == RowLayout::kDense ? 2 : 3;
}

// Weights (places, stored, width) of the locations and rows from the given first ones.
struct SampleJob {
  Draw draw;
  int first_location, places;
  int64_t first, stored;
  int width;
  void* weights;
  float* inverse;  // (places, stored), or null
  float* plain;    // (places, stored, width), or null
  int tile_rows = 0;
  int64_t tiles = 0;  // of a location
};

template <Operand operand, Arithmetic arithmetic, RowLayout layout>
__global__ void __launch_bounds__(kThreads, resident_blocks(arithmetic, layout)) sample_kernel(SampleJob job) {
  for (int64_t tile = blockIdx.x; tile < job.tiles * job.places; tile += gridDim.x) {
    const int place = int(tile / job.tiles);
    const int64_t row = (tile - place * job.tiles) * job.tile_rows, at = place * job.stored + row;
    const int rows = int(min(job.stored - row, int64_t(job.tile_rows)));
    const WeightTile<operand> to{static_cast<Element<operand>*>(job.weights) + at * job.width,
                                 job.width,
                                 job.width,
                                 job.inverse ? job.inverse + at : nullptr,
                                 job.plain ? job.plain + at * job.width : nullptr,
                                 job.width};
    draw_rows<operand, arithmetic, layout>(job.draw, job.first_location + place, job.first + row, rows, shared_memory(),
                                           to);
  }
}

// Rows of a tile: enough for a warp to fill its queue, if there are tiles for all blocks.
int tile_rows(const Draw& draw, int64_t share) {
  if (draw.b > kLongRow) return int(std::min<int64_t>(share, 8));
  const int most = kWarps * SamplerLayout(1 << 20, draw, kWarps).group;
  return int(std::min<int64_t>(most, ceil_div(share, kWarps) * kWarps));
}

void sample(const Context& context, Operand operand, SampleJob job) {
  const Arithmetic arithmetic = job.draw.alpha ? Arithmetic::kLogSpace : job.draw.arithmetic;
  const RowLayout layout = job.width % 4 == 0 ? RowLayout::kAligned : RowLayout::kDense;
  const int64_t processors = context.processors, resident = resident_blocks(arithmetic, layout);
  job.tile_rows = tile_rows(job.draw, ceil_div(job.places * job.stored, processors * resident));
  job.tiles = ceil_div(job.stored, job.tile_rows);
  const size_t shared = sampler_bytes(job.tile_rows, job.draw, kThreads);
  if (shared > context.shared_limit)
    throw std::runtime_error("b = " + std::to_string(job.draw.b) + " examples need " + std::to_string(shared) +
                             " bytes of shared memory for a row of weights, and this device has " +
                             std::to_string(context.shared_limit));
  const int64_t fitting = int64_t((context.shared_limit + 1024) / (shared + 1024));
  const int64_t blocks = std::min(job.tiles * job.places, processors * std::min(resident, fitting));
  with_operand(operand, [&](auto o) {
    with_arithmetic(arithmetic, [&](auto a) {
      const auto kernel = layout == RowLayout::kAligned ? sample_kernel<o.value, a.value, RowLayout::kAligned>
                                                        : sample_kernel<o.value, a.value, RowLayout::kDense>;
      launch(context, "sample", kernel, {blocks}, kThreads, shared, job);
    });
  });
}

}  // namespace

void sample(const Context& context, const Draw& draw, DType dtype, void* weights) {
  const Operand operand = dtype == DType::kBFloat16  ? Operand::kBF16
                          : dtype == DType::kFloat16 ? Operand::kF16
                                                     : Operand::kFP32;
  sample(context, operand, SampleJob{draw, 0, draw.r, 0, draw.n, draw.b, weights, nullptr, nullptr});
}

int64_t scratch_bytes() { return 16 << 20; }

void draw_block(const Context& context, const Draw& draw, Operand operand, const Block& block) {
  sample(context, operand,
         SampleJob{draw, block.first_location, block.places, block.first, block.stored, block.width, block.weights,
                   block.inverse, block.plain});
}

}  // namespace multimix
