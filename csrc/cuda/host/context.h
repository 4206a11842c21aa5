// Where the kernels of one operator call run. Plain C++, for the operators and for the launchers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

namespace multimix {

struct Context {
  void* stream = nullptr;
  int processors = 1;                         // multiprocessors of the device
  size_t shared_limit = 48 << 10;             // bytes of shared memory that one block may ask for
  std::function<void*(size_t bytes)> memory;  // device memory until the call ends, aligned to 256 bytes, uninitialised

  template <class T>
  T* make(int64_t count) const {
    return static_cast<T*>(memory(size_t(count) * sizeof(T)));
  }
};

}  // namespace multimix
