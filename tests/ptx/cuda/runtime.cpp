// The CUDA runtime as far as the backend and nvcc's host code call it. What is not here does not link. Kernels run
// before their launch returns; whatever the machine finds is the launch's error.
#include <cuda_runtime_api.h>

#include <chrono>
#include <map>
#include <memory>
#include <stdexcept>
#include <thread>

#include "device.h"
#include "fatbin.h"
#include "memory.h"

namespace standin {
namespace {

constexpr size_t kMostReported = 2000;  // of a report, in an error

// What a .cu file becomes. Its PTX is read at the first launch.
struct Binary {
  const void* wrapper;
  std::mutex mutex;
  std::map<std::string, void*> modules;  // by target

  void* module(const std::string& target) {
    const std::lock_guard lock(mutex);
    void*& found = modules[target];
    if (found) return found;
    std::string error(4096, '\0');
    found = ptx_load(ptx_of(wrapper, target).c_str(), error.data(), error.size());
    if (!found) throw std::runtime_error(std::string("the machine cannot read the PTX: ") + error.c_str());
    return found;
  }
};

struct Function {
  Binary* binary = nullptr;
  std::string name;
  std::atomic<int> most_shared = 48 << 10;
};

std::map<const void*, Function>& functions() {
  static std::map<const void*, Function> all;
  return all;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};
thread_local std::vector<Configuration> pushed;
thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_text;

cudaError_t fail(cudaError_t error, const std::string& text) {
  last_error = error, last_text = text;
  return error;
}

// The limits of compute capability 8.0 and later.
const char* why_not(const Function& function, dim3 grid, dim3 block, size_t shared) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    return "the grid is empty or too large";
  const uint64_t threads = uint64_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64) return "a block has 1 to 1024 threads";
  if (shared > size_t(function.most_shared)) return "more dynamic shared memory than the kernel was allowed";
  return nullptr;
}

void add_report(const std::string& name, const std::string& report) {
  const std::lock_guard lock(reports().mutex);
  reports().lines.push_back(name);
  reports().lines.push_back(report);
}

cudaError_t launch(const Function& function, dim3 grid, dim3 block, void** arguments, size_t shared) {
  if (const char* reason = why_not(function, grid, block, shared)) return fail(cudaErrorInvalidConfiguration, reason);
  if (!device().executes) {
    add_report(function.name, "{\"faults\": [], \"counts\": {}}");
    return cudaSuccess;
  }
  try {
    void* module = function.binary->module(device().target);
    const uint32_t blocks[3] = {grid.x, grid.y, grid.z}, threads[3] = {block.x, block.y, block.z};
    if (device().observer)
      device().observer(ptx_of(function.binary->wrapper, device().target).c_str(), function.name.c_str(), blocks,
                        threads, uint32_t(shared), arguments, ranges().data(), ranges().size());
    std::string report(1 << 16, '\0');
    const int faults = ptx_launch(module, function.name.c_str(), blocks, threads, uint32_t(shared), arguments,
                                  ranges().data(), ranges().size(), &device().options, report.data(), report.size());
    report.resize(std::char_traits<char>::length(report.c_str()));
    add_report(function.name, report);
    if (faults) return fail(cudaErrorLaunchFailure, device().target + ": " + report.substr(0, kMostReported));
  } catch (const std::exception& error) {
    return fail(cudaErrorLaunchFailure, function.name + ": " + error.what());
  }
  return cudaSuccess;
}

}  // namespace
}  // namespace standin

using namespace standin;

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) { return reinterpret_cast<void**>(new Binary{wrapper, {}, {}}); }
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}

void __cudaRegisterFunction(void** binary, const char* host, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*,
                            int*) {
  Function& function = functions()[host];
  function.binary = reinterpret_cast<Binary*>(binary), function.name = name;
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, CUstream_st* stream) {
  pushed.push_back({grid, block, shared, stream});
  return 0;
}
cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  if (pushed.empty()) return fail(cudaErrorInvalidConfiguration, "a launch without a configuration");
  *grid = pushed.back().grid, *block = pushed.back().block, *shared = pushed.back().shared;
  *static_cast<cudaStream_t*>(stream) = pushed.back().stream;
  pushed.pop_back();
  return cudaSuccess;
}

cudaError_t cudaLaunchKernel(const void* host, dim3 grid, dim3 block, void** arguments, size_t shared, cudaStream_t) {
  const auto found = functions().find(host);
  if (found == functions().end()) return fail(cudaErrorInvalidDeviceFunction, "this is not a kernel");
  return launch(found->second, grid, block, arguments, shared);
}

// Of CUDA 13: the handle of a kernel is found once.
cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* host) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(host));
  return cudaSuccess;
}
cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                               cudaStream_t stream) {
  return cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, arguments, shared, stream);
}

cudaError_t cudaFuncSetAttribute(const void* host, cudaFuncAttribute attribute, int value) {
  const auto found = functions().find(host);
  if (found == functions().end()) return fail(cudaErrorInvalidDeviceFunction, "this is not a kernel");
  if (attributes().refused || attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value > device().shared_limit)
    return fail(cudaErrorInvalidValue, "no such attribute, or more shared memory than the device has");
  found->second.most_shared = value;
  ++attributes().calls;
  std::this_thread::sleep_for(std::chrono::milliseconds(attributes().pause));
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  if (attribute == cudaDevAttrMultiProcessorCount)
    *value = device().processors;
  else if (attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin)
    *value = device().shared_limit;
  else
    return fail(cudaErrorInvalidValue, "an attribute that the stand-in does not know");
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int) { return cudaSuccess; }

cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorString(cudaError_t) { return last_text.c_str(); }

}  // extern "C"
