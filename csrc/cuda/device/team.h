// Threads that work on a row together, and what they exchange: sums and maxima in a fixed order.
//
// Over a warp a reduction costs 5 exchanges; over a block two barriers and a read of each warp's result beside.
#pragma once

#include <type_traits>

#include "cuda/device/primitives.h"

namespace multimix {

struct Add {
  template <class T>
  MULTIMIX_DEVICE T operator()(T x, T y) const {
    return x + y;
  }
};
// Of a number and NaN the number.
struct Larger {
  MULTIMIX_DEVICE int operator()(int x, int y) const { return x > y ? x : y; }
  MULTIMIX_DEVICE float operator()(float x, float y) const { return fmaxf(x, y); }
};

struct Either {
  MULTIMIX_DEVICE int operator()(int x, int y) const { return x | y; }
};

// Combines the values of each `lanes` neighbours, a power of two; all of them get the result. By a whole warp.
template <class T, class Combine>
MULTIMIX_DEVICE T combine_lanes(T value, Combine combine, int lanes = kWarp) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2)
    if (step < lanes) value = combine(value, __shfl_xor_sync(kAllLanes, value, step));
  return value;
}

template <class T>
MULTIMIX_DEVICE T warp_sum(T value) {
  return combine_lanes(value, Add());
}

// Over the four lanes that share the rows of a fragment.
MULTIMIX_DEVICE float quad_sum(float value) { return combine_lanes(value, Add(), 4); }
MULTIMIX_DEVICE float quad_max(float value) { return combine_lanes(value, Larger(), 4); }

// The sum over this lane and those below it.
MULTIMIX_DEVICE int prefix_sum(int value, int lane) {
#pragma unroll
  for (int step = 1; step < kWarp; step *= 2) {
    const int below = __shfl_up_sync(kAllLanes, value, step);
    if (lane >= step) value += below;
  }
  return value;
}

// A warp, or a whole block: known when it is compiled (std::true_type: a block), or only when it runs.
template <class Whole = bool>
struct Team {
  Whole whole;
  int rank, size;
  void* slots;  // 4 bytes in shared memory for each warp of a block

  MULTIMIX_DEVICE bool is_block() const {
    if constexpr (std::is_same_v<Whole, bool>)
      return whole;
    else
      return Whole::value;
  }

  MULTIMIX_DEVICE void sync() const {
    if (is_block()) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  }

  // Combines a value of each thread; of a warp, only of each `lanes` neighbours.
  template <class T, class Combine>
  MULTIMIX_DEVICE T reduce(T value, Combine combine, int lanes = kWarp) const {
    static_assert(sizeof(T) == 4, "slots have 4 bytes");
    constexpr int kUnroll = std::is_same_v<Whole, bool> ? 1 : 8;
    value = combine_lanes(value, combine, lanes);
    if (!is_block()) return value;
    T* all = static_cast<T*>(slots);
    __syncthreads();
    if (rank % kWarp == 0) all[rank / kWarp] = value;
    __syncthreads();
    value = all[0];
#pragma unroll kUnroll
    for (int i = 1; i < size / kWarp; ++i) value = combine(value, all[i]);
    return value;
  }
  MULTIMIX_DEVICE float sum(float value) const { return reduce(value, Add()); }
  MULTIMIX_DEVICE float max(float value) const { return reduce(value, Larger()); }
};

// All threads of the block.
template <int kThreads>
MULTIMIX_DEVICE Team<std::true_type> whole_block(void* slots) {
  return {{}, int(threadIdx.x), kThreads, slots};
}

}  // namespace multimix
