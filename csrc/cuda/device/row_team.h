// Threads that reduce over one row together: a warp, or a whole block. A reduction over a warp costs 5 exchanges; over
// a block two barriers and a read of each warp's result beside.
#pragma once

#include "cuda/device/primitives.h"

namespace multimix {

constexpr int kWideThreads = 256;    // of a team that is a block
constexpr int kNarrowThreads = 128;  // of four warps

template <bool wide>
struct RowTeam {
  static constexpr int kSize = wide ? kWideThreads : kWarp;
  int rank;
  float* slots;  // one for each warp

  static MULTIMIX_DEVICE void sync() {
    if constexpr (wide) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }
  template <class Combine>
  MULTIMIX_DEVICE float reduce(float x, Combine combine) const {
#pragma unroll
    for (int step = kWarp / 2; step > 0; step /= 2) x = combine(x, __shfl_xor_sync(kAllLanes, x, step));
    if constexpr (wide) {
      sync();
      if (rank % kWarp == 0) slots[rank / kWarp] = x;
      sync();
      x = slots[0];
      for (int warp = 1; warp < kSize / kWarp; ++warp) x = combine(x, slots[warp]);
    }
    return x;
  }
  MULTIMIX_DEVICE float sum(float x) const {
    return reduce(x, [](float a, float b) { return a + b; });
  }
  MULTIMIX_DEVICE float max(float x) const {
    return reduce(x, [](float a, float b) { return fmaxf(a, b); });
  }
};

}  // namespace multimix
