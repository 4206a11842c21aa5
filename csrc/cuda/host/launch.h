// Starts a kernel on a stream, and says what went wrong.
#pragma once

#include <stdexcept>
#include <string>

#include "cuda/device/primitives.h"
#include "cuda/host/memory.h"

namespace multimix {

struct Grid {
  int64_t x;
  int y = 1, z = 1;
};

inline void check(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// launch.cu: lets the blocks of a kernel ask for as much dynamic shared memory as the device has.
void allow_shared_memory(const Context& context, const char* name, const void* kernel);

template <class... P, class... A>
void launch(const Context& context, const char* name, void (*kernel)(P...), Grid grid, int threads, size_t shared,
            A... arguments) {
  if (grid.x == 0) return;
  if (shared > 48 << 10) allow_shared_memory(context, name, reinterpret_cast<const void*>(kernel));
  kernel<<<dim3(unsigned(grid.x), grid.y, grid.z), threads, shared, static_cast<cudaStream_t>(context.stream)>>>(
      P(arguments)...);
  check(cudaGetLastError(), name);
}

}  // namespace multimix
