// Scores made ready: what each example's are less, and packed operands, transposed. Sizes are those of the scores, not
// of n.
//
// A block takes the examples that are neighbours in 16 bytes of an operand's row, of one location; some warps each. The
// scores are read twice, the second time for a store of 16 bytes for each class; once more where sums are wanted.
#include <cfloat>

#include "cuda/host/blocks.h"
#include "cuda/host/dispatch.h"
#include "cuda/host/launch.h"
#include "cuda/mixed/scores.h"

namespace multimix {
namespace {

constexpr int kThreads = 512;

struct ScoreJob {
  Strided scores;
  Target target;
  const bool* ignored;
  int first_location, b, height, gram, pitch;
  void* to;
  float *mass, *sums;  // sums: or null
};

template <Operand operand>
struct ScoreBlock {
  using T = Element<operand>;
  static constexpr int kExamples = 16 / int(sizeof(T)), kWarps = kThreads / kWarp, kParts = kWarps / kExamples;

  struct Shared {
    ScoreRange ranges[kWarps];
    float sums[kWarps];
    float shift[kExamples];
    bool used[kExamples];
  };

  const ScoreJob& job;
  Shared& shared;
  int place, first_example;

  MULTIMIX_DEVICE const T* row(int i) const {
    return static_cast<const T*>(job.scores.data) + (job.first_location + place) * job.scores.strides[0] +
           i * job.scores.strides[1];
  }

  // visit(x) of this warp's part of the scores of an example.
  template <class Visit>
  MULTIMIX_DEVICE void for_part(int i, Visit visit) const {
    const T* from = row(i);
    const int part = threadIdx.x / kWarp % kParts;
#pragma unroll 4
    for (int j = part * kWarp + threadIdx.x % kWarp; j < job.target.c; j += kParts * kWarp)
      visit(to_float(from[j * job.scores.strides[2]]));
  }

  // What the scores of each example are less, and its mass.
  MULTIMIX_DEVICE void find_shifts() const {
    const int warp = threadIdx.x / kWarp, e = warp / kParts, i = first_example + e;
    const bool counts = i < job.b && (job.ignored == nullptr || !job.ignored[i]);
    ScoreRange range;
    if (counts) for_part(i, [&](float x) { range.add(x, job.scores.dtype); });
    range.combine(kWarp);
    if (threadIdx.x % kWarp == 0) shared.ranges[warp] = range;
    __syncthreads();
    if (warp % kParts != 0) return;
    const int part = threadIdx.x % kWarp;
    range = part < kParts ? shared.ranges[warp + part] : ScoreRange{};
    range.combine(kWarp);
    const float mass = i >= job.b ? 0.0f : range.bad ? kBadMass : target_mass(job.target, i);
    if (part != 0) return;
    shared.shift[e] = range.bad ? 0.0f : shift_of<operand>(range.top, range.least);
    shared.used[e] = counts && !range.bad;
    if (i < job.b) job.mass[int64_t(place) * job.b + i] = mass;
  }

  MULTIMIX_DEVICE void sum_up() const {
    const int warp = threadIdx.x / kWarp, e = warp / kParts, i = first_example + e;
    float sum = 0;
    if (shared.used[e]) {
      const float shift = shared.shift[e];
      for_part(i, [&](float x) { sum += shifted<operand>(x, shift, job.scores.dtype); });
    }
    sum = warp_sum(sum);
    if (threadIdx.x % kWarp == 0) shared.sums[warp] = sum;
    __syncthreads();
    if (threadIdx.x % (kParts * kWarp) != 0 || i >= job.b) return;
    for (int part = 1; part < kParts; ++part) sum += shared.sums[warp + part];
    job.sums[int64_t(place) * job.b + i] = fmaxf(sum, -FLT_MAX);  // masks: still a number
  }

  MULTIMIX_DEVICE void write() const {
    T* to = static_cast<T*>(job.to) + int64_t(place) * job.height * job.pitch + first_example;
    for (int j = threadIdx.x; j < job.height; j += kThreads) {
      alignas(16) T out[kExamples];
#pragma unroll
      for (int e = 0; e < kExamples; ++e) {
        const int i = first_example + e;
        float x = job.gram >= 0 && j - job.gram == i ? 1.0f : 0.0f;
        if (j < job.target.c && shared.used[e])
          x = shifted<operand>(to_float(row(i)[j * job.scores.strides[2]]), shared.shift[e], job.scores.dtype) *
              kScoreScale<operand>;
        out[e] = round_operand<operand>(x);
      }
      *reinterpret_cast<uint4*>(to + int64_t(j) * job.pitch) = *reinterpret_cast<const uint4*>(out);
    }
  }
};

template <Operand operand>
__global__ void __launch_bounds__(kThreads, 1) pack_scores_kernel(ScoreJob job) {
  using Examples = ScoreBlock<operand>;
  const Examples block{job, *reinterpret_cast<typename Examples::Shared*>(shared_memory()), int(blockIdx.y),
                       int(blockIdx.x) * Examples::kExamples};
  block.find_shifts();
  __syncthreads();
  if (job.sums != nullptr) block.sum_up();
  block.write();
}

}  // namespace

ScoreOperands pack_scores(const Context& context, const LossJob& job, int first_location, int places, int height,
                          int gram, int pitch, bool want_sums) {
  const int64_t count = int64_t(places) * job.draw.b;
  ScoreJob score{};
  score.scores = job.values, score.target = job.target, score.ignored = job.draw.ignored;
  score.first_location = first_location, score.b = job.draw.b;
  score.height = height, score.gram = gram, score.pitch = pitch;
  score.to = context.memory(size_t(element_bytes(job.operand)) * places * height * pitch);
  score.mass = context.make<float>(count);
  score.sums = want_sums ? context.make<float>(count) : nullptr;
  with_operand(job.operand, [&](auto constant) {
    using Examples = ScoreBlock<decltype(constant)::value>;
    launch(context, "pack_scores", pack_scores_kernel<decltype(constant)::value>,
           Grid{pitch / Examples::kExamples, places}, kThreads, sizeof(typename Examples::Shared), score);
  });
  return {score.to, score.mass, score.sums};
}

}  // namespace multimix
