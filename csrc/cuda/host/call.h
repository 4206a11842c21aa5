// One operator call: the device and stream it runs on, the tensors it reads, and the memory it takes.
//
// Memory comes from PyTorch's allocator and returns to it when the call ends: the allocator gives it to later work on
// the same stream only.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>

#include <string>
#include <utility>
#include <vector>

#include "abi.h"
#include "cuda/host/jobs.h"
#include "cuda/host/memory.h"

namespace multimix {

class Call {
 public:
  // On the device of `like`, which every other operand has to share.
  explicit Call(const Tensor& like) : like_(like), device_(like) {
    context.stream = device_.stream();
    context.device = device_.index;
    context.processors = device_.attribute(Device::kProcessors);
    context.shared_limit = size_t(device_.attribute(Device::kSharedMemory));
    context.memory = [this](size_t bytes) {
      kept_.push_back(torch::stable::new_empty(like_, {int64_t(std::max<size_t>(bytes, 1))}, ScalarType::Byte));
      return kept_.back().data_ptr();
    };
  }
  Call(const Call&) = delete;

  // The last dimensions of a tensor of `dims` dimensions, right-aligned; float64 becomes float32.
  Strided strided(const Tensor& tensor, int64_t dims, const char* name) {
    check_device(tensor, name);
    const bool wide = tensor.scalar_type() == ScalarType::Double;
    const Tensor x = wide ? torch::stable::to(tensor, ScalarType::Float) : tensor;
    if (wide) kept_.push_back(x);
    return multimix::strided(x, dims, name, false);
  }

  // Its elements in order, converted if they have another type.
  template <class T>
  const T* contiguous(const Tensor& x, ScalarType type, const char* name) {
    check_device(x, name);
    const Tensor converted = x.scalar_type() == type ? x : torch::stable::to(x, type);
    kept_.push_back(torch::stable::contiguous(converted));
    return static_cast<const T*>(kept_.back().data_ptr());
  }

  Tensor output(const std::vector<int64_t>& shape, ScalarType type) {
    return torch::stable::new_empty(like_, shape, type);
  }

  // A float32 output that is empty if it is not wanted.
  Tensor output_if(bool wanted, const std::vector<int64_t>& shape) {
    return output(wanted ? shape : std::vector<int64_t>{0}, ScalarType::Float);
  }

  Context context;

 private:
  void check_device(const Tensor& x, const char* name) const {
    STD_TORCH_CHECK(x.get_device() == like_.get_device(), name, ": expected it on device ", int(like_.get_device()),
                    ", got device ", int(x.get_device()));
  }

  // Makes the tensor's device the current one until the call ends.
  struct Device {
    enum Attribute {
      kProcessors = cudaDevAttrMultiProcessorCount,
      kSharedMemory = cudaDevAttrMaxSharedMemoryPerBlockOptin
    };
    explicit Device(const Tensor& x) : index(x.get_device_index()), guard(index) {
      STD_TORCH_CHECK(x.is_cuda(), "expected tensors on a CUDA device");
      // The CUDA runtime in this library is not torch's, and has a current device of its own.
      const cudaError_t error = cudaSetDevice(index);
      STD_TORCH_CHECK(error == cudaSuccess, "cudaSetDevice: ", cudaGetErrorString(error));
    }
    void* stream() const {
      void* result = nullptr;
      STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index, &result));
      return result;
    }
    int attribute(Attribute which) const {
      int value = 0;
      const cudaError_t error = cudaDeviceGetAttribute(&value, cudaDeviceAttr(which), index);
      STD_TORCH_CHECK(error == cudaSuccess, "cudaDeviceGetAttribute: ", cudaGetErrorString(error));
      return value;
    }
    int32_t index;
    torch::stable::accelerator::DeviceGuard guard;
  };

  Tensor like_;
  Device device_;
  std::vector<Tensor> kept_;
};

}  // namespace multimix
