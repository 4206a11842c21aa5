// One row of logits at a time: log-sum-exp, and for labels the loss and all gradients.
//
// A team takes a row: a warp while four of them fit in kNarrowBytes of shared memory, else the whole block. The row's
// logits and weights come by asynchronous copies while the row before is at work; then all passes read shared memory.
// Rows that do not fit go through it in chunks of classes, twice.
//
// Cost per row: c logits read from device memory (twice in chunks), c floats of gradient written, b weights read from
// the L2 cache, where another kernel drew them; 2 c exponentials, b additions. Lane-instructions in 16 bits, as
// compiled for sm_80: 11 per class for the loss, 13 for the gradient; 5 per weight, about 100 per class that occurs.
#include <algorithm>

#include "cuda/device/team.h"
#include "cuda/host/dispatch.h"
#include "cuda/soft/soft.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

constexpr size_t kNarrowBytes = 64 << 10;
constexpr int kWideThreads = 256;    // of a team that is a block
constexpr int kNarrowThreads = 128;  // of four warps

// How a team's shared memory is laid out.
struct RowPlan {
  int chunk;  // classes at a time
  int chunks, buffers;
  size_t logits, weights, team;  // bytes: a buffer of each, everything

  // element: bytes of a logit
  RowPlan(int chunk, int buffers, const SoftBlock& block, int64_t element, bool mixes)
      : chunk(chunk), chunks(int(ceil_div(block.c, chunk))), buffers(buffers) {
    logits = size_t(round_up(int((chunk + 16) * element), 16));
    weights = size_t(block.width * element_bytes(block.operand));
    team = buffers * (logits + weights) + (mixes ? size_t(round_up(chunk + 8, 4)) * 4 : 0) + 64;
  }
};

struct RowsJob {
  SoftBlock block;
  LabelOrder labels;
  RowPlan plan;
  RowRecord* records;  // or null: by label
  float* sums;         // one for each team, or null
};

template <class T>
MULTIMIX_DEVICE void unpack(uint32_t word, float (&x)[4 / sizeof(T)]) {
  if constexpr (sizeof(T) == 2) {
    x[0] = to_float(T{uint16_t(word)}), x[1] = to_float(T{uint16_t(word >> 16)});
  } else {
    x[0] = __uint_as_float(word);
  }
}

// A chunk of a row on its way: element j is at buffer[shift + j].
template <class T>
struct Staged {
  int shift;
  bool copied;  // by asynchronous copies; the elements before the first aligned one are held
  T held;
};

// Logits are T, weights W.
template <class T, class W, bool wide>
class RowWorker {
  static constexpr int kVector = 16 / sizeof(T), kWeightVector = 16 / sizeof(W);

 public:
  MULTIMIX_DEVICE RowWorker(const RowsJob& job, unsigned char* shared, int rank)
      : job_(job), block_(job.block), team_{{}, rank, wide ? kWideThreads : kWarp, shared} {
    logits_ = shared + 64;
    weights_ = logits_ + job.plan.buffers * job.plan.logits;
    mixed_ = reinterpret_cast<float*>(weights_ + job.plan.buffers * job.plan.weights);
    if (!job.records) {
      count_ = job.labels.counts[0], known_ = job.labels.counts[1];
      for (lanes_ = 1; lanes_ < kWarp && count_ * lanes_ * 2 <= team_.size;) lanes_ *= 2;
    }
  }

  // Tasks first, first + step ...: rows, the places of a row next to each other, as their logits may be.
  MULTIMIX_DEVICE double run(int first, int step, int tasks) {
    const int chunks = job_.plan.chunks;
    const int parts = chunks == 1 || job_.records ? chunks : 2 * chunks;
    const bool ahead = job_.plan.buffers == 2;
    double total = 0;
    Staged<T> next{};
    if (first < tasks) next = stage(first, 0, 0, 0);
    commit_copies();
    int item = 0, turn = 0;
    for (int task = first; task < tasks; task += step, turn ^= ahead) {
      for (int part = 0; part < parts; ++part, item ^= ahead) {
        const Staged<T> staged = next;
        const bool last = part + 1 == parts;
        const int next_task = last ? task + step : task, next_part = last ? 0 : part + 1;
        if (ahead) {
          if (next_task < tasks) next = stage(next_task, next_part, item ^ 1, turn ^ int(last));
          commit_copies();
          wait_copies<1>();
        } else {
          wait_copies<0>();
        }
        arrive(staged, task, part, item);
        team_.sync();
        process(staged, task, part, item, turn, total);
        team_.sync();
        if (!ahead) {
          if (next_task < tasks) next = stage(next_task, next_part, 0, 0);
          commit_copies();
        }
      }
    }
    return total;
  }

 private:
  MULTIMIX_DEVICE T* logits(int item) const { return reinterpret_cast<T*>(logits_ + item * job_.plan.logits); }
  MULTIMIX_DEVICE W* weights(int turn) const { return reinterpret_cast<W*>(weights_ + turn * job_.plan.weights); }
  MULTIMIX_DEVICE int start(int part) const { return part % job_.plan.chunks * job_.plan.chunk; }
  MULTIMIX_DEVICE int length(int part) const { return min(job_.plan.chunk, block_.c - start(part)); }

  // Starts the copies of a part of a row, and of its weights with the first.
  MULTIMIX_DEVICE Staged<T> stage(int task, int part, int item, int turn) {
    Staged<T> staged{};
    const int place = task % block_.places, row = task / block_.places;
    if (row >= block_.rows) return staged;
    const int64_t index = block_.index(place, row), stride = block_.logits.strides[2];
    const int64_t location = block_.first_location + place;
    const T* source = static_cast<const T*>(block_.logits.data) + location * block_.logits.strides[0] +
                      (block_.first + row) * block_.logits.strides[1] + start(part) * stride;
    // By the place in the output, so that the lanes of a row, and its bits, do not depend on the layout.
    staged.shift = int((index * block_.c + start(part)) % kVector);
    const int count = length(part);
    staged.copied = stride == 1 && int(reinterpret_cast<uintptr_t>(source) / sizeof(T) % kVector) == staged.shift;
    T* to = logits(item);
    if (staged.copied) {
      const int end = staged.shift + count;
      for (int p = team_.rank * kVector; p < end; p += team_.size * kVector)
        if (p >= staged.shift) copy_async(to + p, source + (p - staged.shift), min(end - p, kVector) * int(sizeof(T)));
      if (team_.rank < held(staged, count)) staged.held = source[team_.rank];
    } else {
#pragma unroll 4
      for (int j = team_.rank; j < count; j += team_.size) to[staged.shift + j] = source[j * stride];
    }
    if (part == 0) {
      const W* from = static_cast<const W*>(block_.weights) + (int64_t(place) * block_.stored + row) * block_.width;
      for (int i = team_.rank * kWeightVector; i < block_.width; i += team_.size * kWeightVector)
        copy_async(weights(turn) + i, from + i);
    }
    return staged;
  }

  static MULTIMIX_DEVICE int held(const Staged<T>& staged, int count) {
    return staged.copied && staged.shift > 0 ? min(kVector - staged.shift, count) : 0;
  }
  MULTIMIX_DEVICE void arrive(const Staged<T>& staged, int task, int part, int item) {
    if (task / block_.places < block_.rows && team_.rank < held(staged, length(part)))
      logits(item)[staged.shift + team_.rank] = staged.held;
  }

  // visit(logit) of every class of a part.
  template <class Visit>
  MULTIMIX_DEVICE void visit(const T* row, int shift, int count, Visit visit) const {
    const int end = shift + count;
    for (int p = team_.rank * kVector; p < end; p += team_.size * kVector) {
      if (p >= shift && p + kVector <= end) {
        const uint4 bits = *reinterpret_cast<const uint4*>(row + p);
        const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          float x[4 / sizeof(T)];
          unpack<T>(words[w], x);
#pragma unroll
          for (int e = 0; e < int(4 / sizeof(T)); ++e) visit(x[e]);
        }
      } else {
#pragma unroll 1
        for (int q = max(p, shift); q < min(p + kVector, end); ++q) visit(to_float(row[q]));
      }
    }
  }

  MULTIMIX_DEVICE void process(const Staged<T>& staged, int task, int part, int item, int turn, double& total) {
    const int place = task % block_.places, row = task / block_.places, chunks = job_.plan.chunks;
    const int64_t stored = int64_t(place) * block_.stored + row;
    float* weights_gradient = block_.weights_gradient ? block_.weights_gradient + stored * block_.width : nullptr;
    if (row >= block_.rows) {  // only where weights have a gradient
      if (part == 0)
        for (int i = team_.rank; i < block_.width; i += team_.size) weights_gradient[i] = 0;
      return;
    }
    if (part < chunks) normalise(staged, part, item, turn, block_.inverse[stored]);
    if (job_.records) {
      if (part == chunks - 1 && team_.rank == 0) job_.records[stored] = record_;
      return;
    }
    if (chunks > 1 && part < chunks) return;
    const int64_t index = block_.index(place, row);
    against_labels(staged, part, item, turn, index, block_.inverse[stored], weights_gradient);
    if (part % chunks < chunks - 1) return;
    float loss = team_.sum(loss_) * (block_.keep * block_.inverse[stored]);
    if (block_.uniform != 0) loss += block_.uniform * record_.share * (record_.below + block_.c * record_.log_z);
    loss = block_.c == 1 ? record_.share * 0.0f : loss + record_.share * 0.0f;  // NaN where a label does not exist
    if (team_.rank == 0) {
      if (block_.losses) block_.losses[index] = loss;
      total += loss;
    }
  }

  // The record of a row, chunk by chunk: sums are relative to the largest logit so far.
  MULTIMIX_DEVICE void normalise(const Staged<T>& staged, int part, int item, int turn, float inverse) {
    const T* row = logits(item);
    const int count = length(part);
    if (part == 0) {
      record_ = {-INFINITY, 0, 0, 0}, loss_ = 0;
      const W* w = weights(turn);
      for (int i = team_.rank; i < block_.b; i += team_.size) record_.share += to_float(w[i]) * block_.mass[i];
    }
    float top = record_.top;
    visit(row, staged.shift, count, [&](float x) { top = fmaxf(top, x); });
    top = team_.max(top);
    const float origin = top == -INFINITY ? 0.0f : top;
    if (part > 0) {
      record_.log_z *= fast_exp2((record_.top - origin) * kLog2E);
      if (team_.rank == 0) record_.below += start(part) * (origin - record_.top);
    }
    float z = 0, below = 0;
    visit(row, staged.shift, count, [&](float x) {
      const float difference = x - origin;
      z += fast_exp2(difference * kLog2E), below -= difference;
    });
    record_.top = top, record_.log_z += z, record_.below += below;
    if (part < job_.plan.chunks - 1) return;
    record_.log_z = logf(team_.sum(record_.log_z));
    record_.below = team_.sum(record_.below);
    record_.share = team_.sum(record_.share) * inverse;
  }

  // Loss and gradients of a part. Each class that occurs is summed by `lanes_` lanes in a fixed order.
  MULTIMIX_DEVICE void against_labels(const Staged<T>& staged, int part, int item, int turn, int64_t index,
                                      float inverse, float* weights_gradient) {
    const T* row = logits(item);
    const W* w = weights(turn);
    const int first = start(part), count = length(part), end = staged.shift + count;
    const float factor = block_.factor(index);
    const float spread = block_.uniform != 0 ? block_.uniform * (record_.below + block_.c * record_.log_z) : 0.0f;
    if (block_.gradient) {
      for (int p = team_.rank * 4; p < end; p += team_.size * 4) *reinterpret_cast<float4*>(mixed_ + p) = {0, 0, 0, 0};
      team_.sync();
    }
    for (int from = 0; from < count_; from += team_.size / lanes_) {
      const int k = from + team_.rank / lanes_;
      uint4 own = {0, 0, 0, 0};
      if (k < count_) own = job_.labels.classes[k];
      const int j = int(own.x) - first;
      const bool here = k < count_ && j >= 0 && j < count;
      const float distance = here ? (record_.top - to_float(row[staged.shift + j])) + record_.log_z : 0.0f;
      float sum = 0;
      for (int e = here ? int(own.y) + team_.rank % lanes_ : int(own.z); e < int(own.z); e += lanes_) {
        const int i = job_.labels.order[e];
        sum += to_float(w[i]);
        if (weights_gradient) weights_gradient[i] = block_.c == 1 ? 0.0f : (block_.keep * distance + spread) * factor;
      }
      sum = combine_lanes(sum, Add(), lanes_);
      if (here && team_.rank % lanes_ == 0) {
        loss_ += sum == 0 ? 0.0f : sum * distance;  // a class masked with minus infinity costs nothing
        if (block_.gradient) mixed_[staged.shift + j] = sum;
      }
    }
    if (weights_gradient && first == 0) {
      for (int e = known_ + team_.rank; e < block_.b; e += team_.size) {
        const int i = job_.labels.order[e];
        weights_gradient[i] = block_.c == 1 ? 0.0f : block_.mass[i] * spread * factor;
      }
      for (int i = block_.b + team_.rank; i < block_.width; i += team_.size) weights_gradient[i] = 0;
    }
    if (!block_.gradient) return;
    team_.sync();
    const float scale = block_.c == 1 ? 0.0f : factor * block_.scaled();
    const float share = scale * record_.share, keep = scale * block_.keep * inverse, uniform = share * block_.uniform;
    const float log2_z = record_.log_z * kLog2E;
    const auto gradient = [&](float x, float mixed) {
      const float p = fast_exp2((x - record_.top) * kLog2E - log2_z);
      return block_.c == 1 ? 0.0f : share * p - (keep * mixed + uniform);
    };
    float* out = block_.gradient + index * block_.c + first - staged.shift;
    for (int p = team_.rank * 4; p < end; p += team_.size * 4) {
      if (p >= staged.shift && p + 4 <= end) {
        const float4 mixed = *reinterpret_cast<const float4*>(mixed_ + p);
        float x[4];
        if constexpr (sizeof(T) == 2) {
          const uint2 bits = *reinterpret_cast<const uint2*>(row + p);
          float low[2], high[2];
          unpack<T>(bits.x, low), unpack<T>(bits.y, high);
          x[0] = low[0], x[1] = low[1], x[2] = high[0], x[3] = high[1];
        } else {
          const float4 four = *reinterpret_cast<const float4*>(row + p);
          x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
        }
        *reinterpret_cast<float4*>(out + p) = {gradient(x[0], mixed.x), gradient(x[1], mixed.y),
                                               gradient(x[2], mixed.z), gradient(x[3], mixed.w)};
      } else {
#pragma unroll 1
        for (int q = max(p, staged.shift); q < min(p + 4, end); ++q) out[q] = gradient(to_float(row[q]), mixed_[q]);
      }
    }
  }

  const RowsJob& job_;
  const SoftBlock& block_;
  Team<std::bool_constant<wide>> team_;
  unsigned char *logits_, *weights_;
  float* mixed_;
  int count_ = 0, known_ = 0, lanes_ = 1;
  // Of the row at work; log_z is a lane's part of z, share and below are parts too, until the row is complete.
  RowRecord record_;
  float loss_;
};

template <class T, class W, bool wide>
__global__ void __launch_bounds__(wide ? kWideThreads : kNarrowThreads, wide ? 3 : 6)
    soft_rows_kernel(const RowsJob job) {
  const int team = wide ? 0 : threadIdx.x / kWarp, teams = wide ? 1 : kNarrowThreads / kWarp;
  const int rank = wide ? threadIdx.x : threadIdx.x % kWarp;
  const int own = blockIdx.x * teams + team;
  const int tasks = job.block.places * (job.block.weights_gradient ? job.block.stored : job.block.rows);
  RowWorker<T, W, wide> worker(job, shared_memory() + team * job.plan.team, rank);
  const double total = worker.run(own, gridDim.x * teams, tasks);
  if (job.sums && rank == 0) job.sums[own] = float(total);
}

// The widest rows that two buffers of a block hold; else one; else chunks.
RowPlan wide_plan(const Context& context, const SoftBlock& block, int64_t element, bool mixes) {
  for (int buffers = 2; buffers > 0; --buffers) {
    const RowPlan plan(block.c, buffers, block, element, mixes);
    if (plan.team <= context.shared_limit) return plan;
  }
  const size_t fixed = RowPlan(8, 2, block, element, mixes).team, per_class = 2 * element + (mixes ? 4 : 0);
  if (fixed > context.shared_limit) throw std::runtime_error("soft_cross_entropy: too many examples for this device");
  return {int((context.shared_limit - fixed) / per_class) / 8 * 8 + 8, 2, block, element, mixes};
}

}  // namespace

void soft_rows(const Context& context, SoftBlock block, const LabelOrder* labels, RowRecord* records, bool first,
               double* total) {
  const int64_t element = block.logits.dtype == DType::kFloat32 ? 4 : 2;
  if (!labels) block.gradient = block.weights_gradient = nullptr;
  const bool mixes = block.gradient != nullptr;
  RowPlan plan(block.c, 2, block, element, mixes);
  constexpr int kTeams = kNarrowThreads / kWarp;
  const bool wide = kTeams * plan.team > std::min(context.shared_limit, kNarrowBytes);
  if (wide) plan = wide_plan(context, block, element, mixes);
  const int teams = wide ? 1 : kTeams;
  const size_t shared = teams * plan.team;
  const int64_t tasks = int64_t(block.places) * (block.weights_gradient ? block.stored : block.rows);
  const int64_t per_processor = std::clamp<int64_t>(context.shared_limit / shared, 1, 8);
  const int64_t grid = std::min(ceil_div(tasks, teams), context.processors * per_processor);
  float* sums = total ? context.make<float>(grid * teams) : nullptr;
  const RowsJob job{block, labels ? *labels : LabelOrder{}, plan, records, sums};
  const auto start = [&](auto logit, auto weight) {
    using T = decltype(logit);
    using W = decltype(weight);
    launch(context, "soft_rows", wide ? soft_rows_kernel<T, W, true> : soft_rows_kernel<T, W, false>, {grid},
           wide ? kWideThreads : kNarrowThreads, shared, job);
  };
  if (block.logits.dtype == DType::kFloat32)
    start(float{}, float{});
  else if (block.logits.dtype == DType::kBFloat16)
    labels ? start(BF16{}, float{}) : start(BF16{}, BF16{});
  else
    labels ? start(F16{}, float{}) : start(F16{}, F16{});
  if (total) sum_up(context, sums, grid * teams, first, total);
}

}  // namespace multimix
