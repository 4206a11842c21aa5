// The sum of row losses over the rows of a call.
#include "cuda/host/launch.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

constexpr int kThreads = 1024;
constexpr int kUnroll = 4;

// 4 bytes and an addition in double for each float. Each thread has every 1024th of them, in kUnroll sums.
__global__ void sum_up_kernel(const float* parts, int64_t count, bool first, double* total) {
  double* sums = reinterpret_cast<double*>(shared_memory());
  double own[kUnroll] = {};
  for (int64_t i = threadIdx.x; i < count; i += kThreads * kUnroll) {
#pragma unroll
    for (int u = 0; u < kUnroll; ++u)
      if (i + u * kThreads < count) own[u] += double(parts[i + u * kThreads]);
  }
  sums[threadIdx.x] = (own[0] + own[1]) + (own[2] + own[3]);
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (int(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  if (threadIdx.x == 0) *total = first ? sums[0] : *total + sums[0];
}

}  // namespace

void sum_up(const Context& context, const float* parts, int64_t count, bool first, double* total) {
  launch(context, "sum_up", sum_up_kernel, Grid{1}, kThreads, kThreads * sizeof(double), parts, count, first, total);
}

}  // namespace multimix
