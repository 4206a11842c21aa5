// Kernels with one fault each, and the same kernels without it.
#pragma once

#include <map>
#include <string>

#include "cuda/device/primitives.h"
#include "cuda/host/launch.h"

namespace faults {

using namespace multimix;

struct Buffers {
  const float* input;  // 256 floats
  float* output;       // 256 floats
  int* count;
  const int* host;  // a variable of the host's
  const float* nothing;
};
MULTIMIX_DEVICE float* tile() { return reinterpret_cast<float*>(shared_memory()); }
constexpr int kShared = 256 * sizeof(float);

// So that a read that comes too early is a race, and not of bytes that nobody wrote.
MULTIMIX_DEVICE void clear_tile() {
  tile()[threadIdx.x] = 0;
  __syncthreads();
}

struct Case {
  void (*wrong)(Buffers);
  void (*right)(Buffers);
  int threads = 128;
  int blocks = 1;
};
using Cases = std::map<std::string, Case>;
#define SIMT_CASE(name, ...)                          \
  {                                                   \
    #name, { name<false>, name<true>, ##__VA_ARGS__ } \
  }

// Races: two accesses of the same bytes.
Cases races();

}  // namespace faults
