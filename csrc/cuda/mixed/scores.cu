// Scores made ready: what each example's are less, and packed operands. Sizes are those of the scores, not of n.
#include <algorithm>
#include <cfloat>

#include "cuda/device/team.h"
#include "cuda/host/blocks.h"
#include "cuda/host/dispatch.h"
#include "cuda/host/launch.h"
#include "cuda/mixed/scores.h"
#include "cuda/products/fragments.h"

namespace multimix {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 32;  // of a transposition

// What no operand loses digits by. Float32: the largest score. TF32: that, where it is more than scores differ. 16
// bits: that, where every difference is a number of 16 bits: all scores within a factor of two.
template <Operand operand>
MULTIMIX_DEVICE float shift_of(float top, float least) {
  if (!(top > -INFINITY)) return 0;
  if (operand == Operand::kFP32) return top;
  if (operand == Operand::kTF32) return fabsf(top) > top - least ? top : 0.0f;
  return (top > 0 ? least >= 0.5f * top : least >= 2 * top) ? top : 0.0f;
}

// One warp for an example.
template <Operand operand>
__global__ void score_rows_kernel(Strided scores, const float* mass, const bool* ignored, int first_location,
                                  int64_t count, int b, int c, float* shifts, float* masses, float* sums) {
  const int lane = threadIdx.x % kWarp;
  const int64_t stride = int64_t(gridDim.x) * kThreads / kWarp;
  for (int64_t row = (int64_t(blockIdx.x) * kThreads + threadIdx.x) / kWarp; row < count; row += stride) {
    const int64_t location = first_location + row / b;
    const int i = int(row % b);
    const bool counts = ignored == nullptr || !ignored[i];
    float top = -INFINITY, least = INFINITY;
    bool bad = false;
    for (int j = lane; counts && j < c; j += kWarp) {
      const float x = read(scores, location, i, j);
      bad = bad || !(x < INFINITY);
      if (!is_masked(x, scores.dtype)) top = fmaxf(top, x), least = fminf(least, x);
    }
    bad = __any_sync(kAllLanes, bad);
    top = combine_lanes(top, Larger()), least = -combine_lanes(-least, Larger());
    const float shift = bad ? 0.0f : shift_of<operand>(top, least);
    if (lane == 0) shifts[row] = shift, masses[row] = bad ? kBadMass : mass[i];
    if (sums == nullptr) continue;
    float sum = 0;
    for (int j = lane; counts && !bad && j < c; j += kWarp)
      sum += shifted<operand>(read(scores, location, i, j), shift, scores.dtype);
    sum = warp_sum(sum);
    if (lane == 0) sums[row] = fmaxf(sum, -FLT_MAX);  // masks: still a number
  }
}

// What packing reads; what ignored and bad examples hold reaches no sum.
template <Operand operand>
struct Source {
  Strided scores;
  const float *shift, *mass;
  const bool* ignored;
  int first_location, b, c;

  MULTIMIX_DEVICE float operator()(int64_t place, int i, int j) const {
    const int64_t row = place * b + i;
    if (i >= b || j >= c || mass[row] == kBadMass || (ignored != nullptr && ignored[i])) return 0;
    return shifted<operand>(read(scores, first_location + place, i, j), shift[row], scores.dtype) *
           kScoreScale<operand>;
  }
};

template <Operand operand>
Source<operand> source_of(const LossJob& job, const ScoreRows& rows, int first_location) {
  Source<operand> from{};
  from.scores = job.values, from.shift = rows.shift, from.mass = rows.mass, from.ignored = job.draw.ignored;
  from.first_location = first_location, from.b = job.draw.b, from.c = job.target.c;
  return from;
}

template <Operand operand>
__global__ void __launch_bounds__(kThreads)
    pack_scores_kernel(Source<operand> from, int64_t count, int height, int pitch, Element<operand>* to) {
  const int64_t stride = int64_t(gridDim.x) * kThreads;
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count; at += stride)
    to[at] = round_operand<operand>(from(at / pitch / height, int(at / pitch % height), int(at % pitch)));
}

// Through shared memory; each is read and written once.
template <Operand operand>
__global__ void __launch_bounds__(kThreads)
    pack_scores_transposed_kernel(Source<operand> from, int height, int gram, int pitch, Element<operand>* to) {
  float* tile = reinterpret_cast<float*>(shared_memory());  // (kTile examples, kTile + 1 classes)
  const int across = (pitch + kTile - 1) / kTile, x = threadIdx.x % kTile, y = threadIdx.x / kTile;
  const int example = int(blockIdx.x % across) * kTile, j = int(blockIdx.x / across) * kTile;
  const int64_t place = blockIdx.y;
#pragma unroll
  for (int i = y; i < kTile; i += kThreads / kTile) tile[i * (kTile + 1) + x] = from(place, example + i, j + x);
  __syncthreads();
  if (example + x >= pitch) return;
#pragma unroll
  for (int row = y; row < kTile; row += kThreads / kTile) {
    if (j + row >= height) break;
    const float one = gram >= 0 && j + row - gram == example + x ? 1.0f : 0.0f;
    to[(place * height + j + row) * pitch + example + x] =
        round_operand<operand>(j + row < from.c ? tile[x * (kTile + 1) + row] : one);
  }
}

}  // namespace

ScoreRows score_rows(const Context& context, const LossJob& job, int first_location, int places, bool want_sums) {
  const int b = job.draw.b;
  const int64_t count = int64_t(places) * b;
  float *shift = context.make<float>(count), *mass = context.make<float>(count);
  float* sums = want_sums ? context.make<float>(count) : nullptr;
  with_operand(job.operand, [&](auto constant) {
    const Grid grid{std::min(ceil_div(count * kWarp, kThreads), int64_t(context.processors) * 8)};
    launch(context, "score_rows", score_rows_kernel<decltype(constant)::value>, grid, kThreads, 0, job.values,
           job.target.mass, job.draw.ignored, first_location, count, b, job.target.c, shift, mass, sums);
  });
  return {shift, mass, sums};
}

void* pack_scores(const Context& context, const LossJob& job, const ScoreRows& rows, int first_location, int places,
                  int height, int pitch) {
  const int64_t count = int64_t(places) * height * pitch;
  void* to = context.memory(size_t(count * element_bytes(job.operand)));
  with_operand(job.operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    const Grid grid{std::min(ceil_div(count, kThreads), int64_t(context.processors) * 8)};
    launch(context, "pack_scores", pack_scores_kernel<o>, grid, kThreads, 0, source_of<o>(job, rows, first_location),
           count, height, pitch, static_cast<Element<o>*>(to));
  });
  return to;
}

void* pack_scores_transposed(const Context& context, const LossJob& job, const ScoreRows& rows, int first_location,
                             int places, int height, int gram, int pitch) {
  void* to = context.memory(size_t(element_bytes(job.operand)) * places * height * pitch);
  with_operand(job.operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    const Grid grid{ceil_div(height, kTile) * ceil_div(pitch, kTile), places};
    launch(context, "pack_scores_transposed", pack_scores_transposed_kernel<o>, grid, kThreads,
           kTile * (kTile + 1) * sizeof(float), source_of<o>(job, rows, first_location), height, gram, pitch,
           static_cast<Element<o>*>(to));
  });
  return to;
}

}  // namespace multimix
