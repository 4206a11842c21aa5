// Instructions that do the same to each lane.
#pragma once

#include <utility>

#include "warp.h"

namespace ptx {

// d[lane] = f(...) in the active lanes. The inner loops have 32 steps and no branches, so that they vectorise.
template <class F, class... Sources>
[[gnu::always_inline]] inline void map(Warp& warp, uint64_t* d, F f, const Sources*... sources) {
  if (warp.active == kAll) {
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) d[lane] = f(sources[lane]...);
  } else {
    const uint32_t active = warp.active;
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; ++lane) {
      const uint64_t value = f(sources[lane]...);
      d[lane] = active >> lane & 1 ? value : d[lane];
    }
  }
}

// Op::apply(T, ...) -> R on operands 1, 2, ... of type T; the result goes to operand 0.
template <class Op, class R, class T, size_t... k>
[[gnu::always_inline]] inline void run_map(Warp& warp, const Instruction& i, std::index_sequence<k...>) {
  map(
      warp, warp.lanes(i[0].reg), [](auto... bits) { return bits_of<R>(Op::apply(as<T>(bits)...)); },
      warp.values(i[k + 1])...);
}

template <class Op, class R, class T, int sources>
void run_lanes(Warp& warp, const Instruction& i) {
  run_map<Op, R, T>(warp, i, std::make_index_sequence<sources>());
}

// A lambda without captures as the operation: run_lanes<...>.
#define PTX_OPERATION(name, result, ...) \
  struct name {                          \
    template <class T>                   \
    static auto apply(__VA_ARGS__) {     \
      return result;                     \
    }                                    \
  }

}  // namespace ptx
