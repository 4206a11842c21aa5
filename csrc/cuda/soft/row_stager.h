// Rows of logits, and their weights, on their way into the shared memory of a team, a part of a row ahead of its use.
#pragma once

#include "cuda/device/team.h"
#include "cuda/soft/soft.h"

namespace multimix {

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
  double* sums;        // a slot for each team, or null

  // Of a row: its chunks, and where they do not stay for the losses against labels, the same again.
  MULTIMIX_DEVICE int parts() const { return plan.chunks == 1 || records ? plan.chunks : 2 * plan.chunks; }
};

// Where a team is: a part of a task. Tasks are rows, the places of a row next to each other, as their logits may be.
struct RowCursor {
  int task, part;
  int logits, weights;  // buffers

  MULTIMIX_DEVICE RowCursor next(const RowsJob& job, int step) const {
    const bool last = part + 1 == job.parts(), two = job.plan.buffers == 2;
    return {last ? task + step : task, last ? 0 : part + 1, logits ^ int(two), weights ^ int(two && last)};
  }
  MULTIMIX_DEVICE int place(const RowsJob& job) const { return task % job.block.places; }
  MULTIMIX_DEVICE int row(const RowsJob& job) const { return task / job.block.places; }
  MULTIMIX_DEVICE int first_class(const RowsJob& job) const { return part % job.plan.chunks * job.plan.chunk; }
  MULTIMIX_DEVICE int classes(const RowsJob& job) const { return min(job.plan.chunk, job.block.c - first_class(job)); }
};

// Classes first ... first + count - 1 of a row in shared memory: logit j is at[shift + j - first].
template <class T>
struct Chunk {
  const T* at;
  int shift, first, count;

  MULTIMIX_DEVICE float logit(int j) const { return to_float(at[shift + j - first]); }
};

// Logits are T, weights W.
template <class T, class W, bool wide>
class RowStager {
  static constexpr int kVector = 16 / sizeof(T), kWeightVector = 16 / sizeof(W);

 public:
  // A part on its way.
  struct Staged {
    int shift;
    bool copied;  // by asynchronous copies; the elements before the first aligned one are held
    T held;
  };

  MULTIMIX_DEVICE RowStager(const RowsJob& job, Team<std::bool_constant<wide>> team, unsigned char* shared)
      : job_(job), team_(team), logits_(shared), weights_(shared + job.plan.buffers * job.plan.logits) {}

  MULTIMIX_DEVICE T* logits(const RowCursor& at) const {
    return reinterpret_cast<T*>(logits_ + at.logits * job_.plan.logits);
  }
  MULTIMIX_DEVICE W* weights(const RowCursor& at) const {
    return reinterpret_cast<W*>(weights_ + at.weights * job_.plan.weights);
  }
  // Behind the buffers.
  MULTIMIX_DEVICE float* rest() const {
    return reinterpret_cast<float*>(weights_ + job_.plan.buffers * job_.plan.weights);
  }

  // Starts the copies of a part of a row, and of its weights with the first.
  MULTIMIX_DEVICE Staged stage(const RowCursor& at) const {
    const SoftBlock& block = job_.block;
    Staged staged{};
    const int place = at.place(job_), row = at.row(job_);
    if (row >= block.rows) return staged;
    const int64_t index = block.index(place, row), stride = block.logits.strides[2];
    const int64_t location = block.first_location + place;
    const T* source = static_cast<const T*>(block.logits.data) + location * block.logits.strides[0] +
                      (block.first + row) * block.logits.strides[1] + at.first_class(job_) * stride;
    // By the place in the output, so that the lanes of a row, and its bits, do not depend on the layout.
    staged.shift = int((index * block.c + at.first_class(job_)) % kVector);
    const int count = at.classes(job_);
    staged.copied = stride == 1 && int(reinterpret_cast<uintptr_t>(source) / sizeof(T) % kVector) == staged.shift;
    T* to = logits(at);
    if (staged.copied) {
      const int end = staged.shift + count;
      for (int p = team_.rank * kVector; p < end; p += team_.size * kVector)
        if (p >= staged.shift) copy_async(to + p, source + (p - staged.shift), min(end - p, kVector) * int(sizeof(T)));
      if (team_.rank < held(staged, count)) staged.held = source[team_.rank];
    } else {
#pragma unroll 4
      for (int j = team_.rank; j < count; j += team_.size) to[staged.shift + j] = source[j * stride];
    }
    if (at.part == 0) {
      const W* from = static_cast<const W*>(block.weights) + (int64_t(place) * block.stored + row) * block.width;
      for (int i = team_.rank * kWeightVector; i < block.width; i += team_.size * kWeightVector)
        copy_async(weights(at) + i, from + i);
    }
    return staged;
  }

  // Once its copies have arrived; for other threads after a barrier.
  MULTIMIX_DEVICE Chunk<T> arrive(const Staged& staged, const RowCursor& at) const {
    T* to = logits(at);
    const int count = at.classes(job_);
    if (at.row(job_) < job_.block.rows && team_.rank < held(staged, count)) to[staged.shift + team_.rank] = staged.held;
    return {to, staged.shift, at.first_class(job_), count};
  }

 private:
  static MULTIMIX_DEVICE int held(const Staged& staged, int count) {
    return staged.copied && staged.shift > 0 ? min(kVector - staged.shift, count) : 0;
  }

  const RowsJob& job_;
  Team<std::bool_constant<wide>> team_;
  unsigned char *logits_, *weights_;
};

}  // namespace multimix
