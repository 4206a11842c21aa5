// Gradients from the partial sums of many blocks, less what a Gram matrix gives for the targets.
#include <algorithm>

#include "cuda/device/elements.h"
#include "cuda/device/read.h"
#include "cuda/host/launch.h"
#include "cuda/sums/mass.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

constexpr int kTile = 32;          // examples of a tile of add_up: one for each lane
constexpr int kSparseClasses = 8;  // classes of a tile: few, as small gradients have few tiles to share out
constexpr int kSparseThreads = 512;
constexpr int kDenseClasses = 32;  // many, as every tile reads all of a Gram matrix's rows
constexpr int kDenseThreads = 256;
constexpr int kDepth = 64;  // examples whose targets are in shared memory at a time

MULTIMIX_DEVICE float value_of(const Scale& scale) {
  return scale.device == nullptr ? scale.host : scale.host * *scale.device;
}

// Rows of Gram matrices: (places, splits, b, width) with these strides.
struct Gram {
  const float* data = nullptr;
  int64_t place_stride = 0, split_stride = 0;
  int splits = 0;
};

struct AddUpJob {
  const float* partial;  // (places, splits, height, width)
  int splits, height, width;
  Gram gram;
  Target target;
  Scale scale;
  int b, c;
  bool accumulate;
  Strided values;  // (r, b, c), or null
  int first_location;
  float* out;    // (places, b, c)
  LossSum loss;  // where there is an output: finished by a block behind those of the gradient
};

// Smoothed target of example e and class j, both of which exist.
MULTIMIX_DEVICE float smoothed(const Target& target, int e, int j) {
  if (target.labels == nullptr) {
    const float y = read(target.probabilities, 0, e, j);
    return (is_finite(y) ? y : 0.0f) * target.keep + target.uniform;
  }
  const int64_t label = target.labels[e];
  const float own = label == j && label != target.ignore_index ? target.keep : 0.0f;
  return own + label_mass(target, label) * target.uniform;
}

// Subtracts keep * gram[e, i] for every example e whose label is one of the tile's classes. Per tile: b labels read.
template <int kClasses>
MULTIMIX_DEVICE void subtract_labels(const AddUpJob& job, int place, int i, int first_class, float (&sum)[kClasses]) {
  const int lane = threadIdx.x % kWarp;
  const float* gram = job.gram.data + place * job.gram.place_stride + i;
  for (int start = threadIdx.x - lane; start < job.b; start += blockDim.x) {
    const int64_t label = start + lane < job.b ? job.target.labels[start + lane] : -1;
    const bool here = label >= first_class && label < min(first_class + kClasses, job.c);
    const int own = here ? int(label) - first_class : -1;
    for (unsigned left = __ballot_sync(kAllLanes, here && label != job.target.ignore_index); left; left &= left - 1) {
      const int e = __ffs(left) - 1, j = __shfl_sync(kAllLanes, own, e);
      float x = 0;
      if (i < job.b)
        for (int split = 0; split < job.gram.splits; ++split)
          x += gram[split * job.gram.split_stride + int64_t(start + e) * job.width];
#pragma unroll
      for (int k = 0; k < kClasses; ++k)
        if (k == j) sum[k] -= job.target.keep * x;
    }
  }
}

// Subtracts sum_e gram[e, i] y[e, j]: per warp and e, a row of 32 floats from the L2 cache and 32 multiply-adds.
template <int kClasses>
MULTIMIX_DEVICE void subtract_product(const AddUpJob& job, int place, int i, int first_class, float* y,
                                      float (&sum)[kClasses]) {
  const float* gram = job.gram.data + place * job.gram.place_stride + i;
  const int warps = blockDim.x / kWarp;
  for (int start = 0; start < job.b; start += kDepth) {
    const int depth = min(kDepth, job.b - start);
    __syncthreads();
    for (int at = threadIdx.x; at < depth * kClasses; at += blockDim.x) {
      const int j = first_class + at % kClasses;
      y[at] = j < job.c ? smoothed(job.target, start + at / kClasses, j) : 0.0f;
    }
    __syncthreads();
    if (i >= job.b) continue;
#pragma unroll 2
    for (int e = threadIdx.x / kWarp; e < depth; e += warps) {
      const float x = gram[int64_t(start + e) * job.width];
#pragma unroll
      for (int k = 0; k < kClasses; ++k) sum[k] -= x * y[e * kClasses + k];
    }
  }
}

// One tile of 32 examples, a lane for each, by kClasses classes; the splits are shared out among the warps, whose sums
// are added in order. Reads partial sums once: 4 bytes and an addition each.
template <int kClasses, bool dense>
__global__ void __launch_bounds__(dense ? kDenseThreads : kSparseThreads) add_up_kernel(AddUpJob job) {
  constexpr int kPitch = kClasses == kTile ? kTile + 1 : kTile + 4;  // free of bank conflicts when read by classes
  if (job.loss.out.at != nullptr && blockIdx.x == gridDim.x - 1) {
    if (blockIdx.y == 0) finish_loss(job.loss);
    return;
  }
  float* sums = reinterpret_cast<float*>(shared_memory());  // (warps, kClasses, kPitch)
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const int class_tiles = (job.c + kClasses - 1) / kClasses;
  if (int(blockIdx.x) == class_tiles * ((job.b + kTile - 1) / kTile)) {
    if (blockIdx.y == 0) finish_loss(job.loss);
    return;
  }
  const int first_class = int(blockIdx.x) % class_tiles * kClasses;
  const int first_example = int(blockIdx.x) / class_tiles * kTile;
  const int place = blockIdx.y, i = first_example + lane;
  const int64_t size = int64_t(job.height) * job.width;
  const float* partial = job.partial + (place * job.splits + warp) * size + int64_t(first_class) * job.width + i;
  float sum[kClasses] = {};
  if (i < job.b) {
    for (int split = warp; split < job.splits; split += warps, partial += warps * size) {
#pragma unroll
      for (int k = 0; k < kClasses; ++k)
        if (first_class + k < job.c) sum[k] += partial[k * job.width];
    }
  }
  if (job.gram.data != nullptr) {
    if constexpr (dense)
      subtract_product(job, place, i, first_class, sums + warps * kClasses * kPitch, sum);
    else
      subtract_labels(job, place, i, first_class, sum);
  }
#pragma unroll
  for (int k = 0; k < kClasses; ++k) sums[(warp * kClasses + k) * kPitch + lane] = sum[k];
  __syncthreads();
  const float scale = value_of(job.scale);
  for (int at = threadIdx.x; at < kClasses * kTile; at += blockDim.x) {
    const int k = at % kClasses, example = first_example + at / kClasses;
    if (first_class + k >= job.c || example >= job.b) continue;
    float total = 0;
    for (int w = 0; w < warps; ++w) total += sums[(w * kClasses + k) * kPitch + at / kClasses];
    if (job.gram.data != nullptr && job.c == 1) total *= 0.0f;
    if (job.values.data != nullptr && read(job.values, job.first_location + place, example, first_class + k) < -3e38f)
      total = 0;
    float* out = job.out + (int64_t(place) * job.b + example) * job.c + first_class + k;
    *out = job.accumulate ? *out + total * scale : total * scale;
  }
}

// Gram matrices summed over their splits: what add_up would otherwise read again for every tile of classes.
__global__ void sum_splits_kernel(Gram gram, int64_t size, float* out) {
  const int64_t at = int64_t(blockIdx.x) * blockDim.x + threadIdx.x;
  if (at >= size) return;
  const float* from = gram.data + blockIdx.y * gram.place_stride + at;
  float sum = 0;
#pragma unroll 4
  for (int split = 0; split < gram.splits; ++split) sum += from[split * gram.split_stride];
  out[blockIdx.y * size + at] = sum;
}

template <int kClasses, bool dense>
void launch_add_up(const Context& context, const AddUpJob& job, int places) {
  constexpr int kThreads = dense ? kDenseThreads : kSparseThreads;
  constexpr int kPitch = kClasses == kTile ? kTile + 1 : kTile + 4;
  const size_t shared = (kThreads / kWarp * kClasses * kPitch + (dense ? kDepth * kClasses : 0)) * sizeof(float);
  launch(context, "add_up", add_up_kernel<kClasses, dense>,
         Grid{ceil_div(job.c, kClasses) * ceil_div(job.b, kTile) + (job.loss.out.at != nullptr), places}, kThreads,
         shared, job);
}

}  // namespace

void add_up(const Context& context, const PartialSums& partial, const GradientOutput& out, const GramCorrection* gram,
            const LossSlots* loss) {
  AddUpJob job{};
  if (loss != nullptr && loss->wanted()) job.loss = loss->sum();
  job.partial = partial.at;
  job.splits = partial.splits, job.height = partial.height, job.width = partial.width;
  job.scale = out.scale, job.accumulate = out.accumulate, job.out = out.at;
  job.values = out.values, job.first_location = out.first_location;
  job.b = out.b, job.c = out.c;
  const int places = partial.places;
  if (gram == nullptr) return launch_add_up<kSparseClasses, false>(context, job, places);
  job.target = *gram->target;
  const int64_t size = int64_t(partial.height) * partial.width;
  job.gram.data = partial.at + int64_t(gram->row) * partial.width;
  job.gram.place_stride = partial.splits * size, job.gram.split_stride = size, job.gram.splits = partial.splits;
  if (job.target.labels != nullptr && job.target.uniform == 0)
    return launch_add_up<kSparseClasses, false>(context, job, places);
  if (partial.splits > 1) {
    const int64_t square = int64_t(out.b) * partial.width;
    float* sums = context.make<float>(places * square);
    launch(context, "sum_splits", sum_splits_kernel, Grid{ceil_div(square, kDenseThreads), places}, kDenseThreads, 0,
           job.gram, square, sums);
    job.gram.data = sums, job.gram.place_stride = square, job.gram.split_stride = 0, job.gram.splits = 1;
  }
  launch_add_up<kDenseClasses, true>(context, job, places);
}

}  // namespace multimix
