#include <mutex>
#include <set>
#include <utility>

#include "cuda/host/launch.h"

namespace multimix {

// Once for each kernel and device, and never less: the limit is the kernel's, of all threads of the process, so that
// one of a launch's own size would refuse a larger launch of another thread.
void allow_shared_memory(const Context& context, const char* name, const void* kernel) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  const std::lock_guard lock(mutex);
  if (allowed.count({kernel, context.device})) return;
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(context.shared_limit));
  if (error != cudaSuccess) {
    cudaGetLastError();  // the runtime keeps it: the next launch would report it as its own
    throw std::runtime_error(std::string(name) + ": the device refuses " + std::to_string(context.shared_limit) +
                             " bytes of shared memory for a block: " + cudaGetErrorString(error));
  }
  allowed.insert({kernel, context.device});
}

}  // namespace multimix
