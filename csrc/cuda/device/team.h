// The threads that draw a row of weights together: a warp, or a whole block.
#pragma once

#include "cuda/device/primitives.h"

namespace multimix {

template <class T, class Combine>
MULTIMIX_DEVICE T combine_lanes(T value, int lanes, Combine combine) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2)
    if (step < lanes) value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

struct Add {
  template <class T>
  MULTIMIX_DEVICE T operator()(T x, T y) const {
    return x + y;
  }
};
struct Larger {
  template <class T>
  MULTIMIX_DEVICE T operator()(T x, T y) const {
    return x > y ? x : y;
  }
};

// The sum over this lane and those below it.
MULTIMIX_DEVICE int prefix_sum(int value, int lane) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int below = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += below;
  }
  return value;
}

struct Team {
  bool whole;  // a block
  int rank, size;
  void* slots;  // 4 bytes in shared memory for each warp of a block

  MULTIMIX_DEVICE void sync() const {
    if (whole) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }

  // Combines a value of each thread, in a fixed order; of a warp, only of each `lanes` neighbours.
  template <class T, class Combine>
  MULTIMIX_DEVICE T reduce(T value, Combine combine, int lanes = kWarp) const {
    static_assert(sizeof(T) == 4, "slots have 4 bytes");
    value = combine_lanes(value, lanes, combine);
    if (!whole) return value;
    T* all = static_cast<T*>(slots);
    __syncthreads();
    if (rank % kWarp == 0) all[rank / kWarp] = value;
    __syncthreads();
    value = all[0];
#pragma unroll 1
    for (int i = 1; i < size / kWarp; ++i) value = combine(value, all[i]);
    return value;
  }
};

}  // namespace multimix
