// What a block of the single-pass mixed cross-entropy reads once: the scores and targets of its location, as operands
// in shared memory, and the masses of the examples.
#pragma once

#include "cuda/mixed/scores.h"
#include "cuda/mixed/small_plan.h"

namespace multimix {

// Scores lie there as they come, then four lanes take an example: its range says what its scores are less. 16-bit
// scores without a mask are mostly less nothing, and stay as they are.
//
// Lane-instructions per score: about 12 to copy it, 8 for its range, 12 where it changes; per target 16 bytes of zeros
// to a store, or 12.
template <Operand operand>
struct SmallOperands {
  using T = Element<operand>;
  static constexpr int kLanes = 4;  // of an example
  static constexpr int kBatch = 4;  // scores that a thread has on their way

  const SmallJob& job;
  T *scores, *targets;  // (width, class_pitch)
  float* mass;          // (width)

  // By all threads. Whether every example that counts has a mass of one.
  MULTIMIX_DEVICE bool read(int location) const {
    copy_scores(location);
    __syncthreads();
    const int rank = threadIdx.x % kLanes;
    bool one = true;
    for (int i = threadIdx.x / kLanes; i < job.plan.width; i += blockDim.x / kLanes) {
      const bool exists = i < job.draw.b, counts = exists && (job.draw.ignored == nullptr || !job.draw.ignored[i]);
      const bool bad = shift_scores(i, rank, counts);
      const float target = write_targets(i, rank, exists), own = exists && bad ? kBadMass : target;
      if (rank == 0) mass[i] = own;
      one = one && (!counts || own == 1.0f);
    }
    return __syncthreads_and(one);
  }

 private:
  // (b, c) of the tensor.
  MULTIMIX_DEVICE void copy_scores(int location) const {
    const int b = job.draw.b, c = job.target.c, pitch = job.plan.class_pitch;
    const int rows = int(blockDim.x) / c, columns = int(blockDim.x) % c;  // from one score of a thread to its next
    const T* from = static_cast<const T*>(job.values.data) + location * job.values.strides[0];
    int i = int(threadIdx.x) / c, j = int(threadIdx.x) % c;
    while (i < b) {
      T x[kBatch];
      int to[kBatch];
#pragma unroll
      for (int k = 0; k < kBatch; ++k) {
        to[k] = i < b ? i * pitch + j : -1;
        if (i < b) x[k] = from[i * job.values.strides[1] + j * job.values.strides[2]];
        i += rows, j += columns;
        if (j >= c) j -= c, ++i;
      }
#pragma unroll
      for (int k = 0; k < kBatch; ++k)
        if (to[k] >= 0) scores[to[k]] = x[k];
    }
  }

  // Whether some score of the example is not a number.
  MULTIMIX_DEVICE bool shift_scores(int i, int rank, bool counts) const {
    const int c = job.target.c, pitch = job.plan.class_pitch;
    T* row = scores + i * pitch;
    ScoreRange range;
    for (int j = rank; counts && j < c; j += kLanes) range.add(to_float(row[j]), job.values.dtype);
    range.combine(kLanes);
    const float shift = range.bad ? 0.0f : shift_of<operand>(range.top, range.least);
    const bool stay = operand == Operand::kBF16 && counts && !range.bad && !range.masked && shift == 0 &&
                      range.least >= kMasked<operand>;
    for (int j = stay ? c + rank : rank; j < pitch; j += kLanes) {
      const float x = counts && !range.bad && j < c ? shifted<operand>(to_float(row[j]), shift, job.values.dtype) : 0;
      row[j] = round_operand<operand>(x * kScoreScale<operand>);
    }
    return range.bad;
  }

  // Returns the mass.
  MULTIMIX_DEVICE float write_targets(int i, int rank, bool exists) const {
    const Target& target = job.target;
    const int pitch = job.plan.class_pitch, vector = 16 / int(sizeof(T));
    T* row = targets + i * pitch;
    if (target.labels != nullptr) {
      const int64_t label = exists ? target.labels[i] : target.ignore_index;
      for (int j = rank * vector; j < pitch; j += kLanes * vector)
        *reinterpret_cast<uint4*>(row + j) = make_uint4(0, 0, 0, 0);
      __syncwarp();
      if (rank == 0 && label >= 0 && label < target.c && label != target.ignore_index)
        row[label] = round_operand<operand>(1.0f);
      return exists ? label_mass(target, label) : 0.0f;
    }
    float sum = 0;
#pragma unroll 4
    for (int j = rank; j < pitch; j += kLanes) {
      const float y = exists && j < target.c ? multimix::read(target.probabilities, 0, i, j) : 0.0f;
      sum += y;
      row[j] = round_operand<operand>(is_finite(y) ? y : 0.0f);
    }
    sum = quad_sum(sum);
    return exists ? smoothed_mass(target, sum) : 0.0f;
  }
};

}  // namespace multimix
