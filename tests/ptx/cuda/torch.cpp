// What stands between the CUDA backend and torch: operators are registered for CPU tensors, and these pass for tensors of
// a CUDA device; every tensor whose address is asked for is memory that kernels may touch until the operator returns.
// The linker redirects the calls of the backend (--wrap).
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/inductor/aoti_torch/generated/c_shim_aten.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstring>

#include "memory.h"

namespace standin {

std::vector<Range>& ranges() {
  thread_local std::vector<Range> all;
  return all;
}

namespace {

// Elements behind each tensor that the backend makes: a kernel that runs on meets no other.
constexpr int64_t kGuard = 4096;

// Elements from the first to the last, in any layout.
int64_t extent(const torch::stable::Tensor& x) {
  int64_t last = 0;
  for (int64_t k = 0; k < x.dim(); ++k) last += (x.size(k) - 1) * x.stride(k);
  return x.numel() == 0 ? 0 : last + 1;
}

void allow(AtenTensorHandle handle, const void* data, bool writable) {
  AtenTensorHandle other = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(handle, &other));
  const torch::stable::Tensor x(other);
  const auto begin = reinterpret_cast<uint64_t>(data), end = begin + uint64_t(extent(x)) * x.element_size();
  if (begin == end) return;
  for (Range& known : ranges())
    if (known.begin == begin) {
      if (!known.writable) known.end = std::max(known.end, end);
      return;
    }
  ranges().push_back({begin, end, writable});
}

}  // namespace
}  // namespace standin

extern "C" {

AOTITorchError __real_aoti_torch_library_init_impl(const char*, const char*, const char*, uint32_t,
                                                   TorchLibraryHandle*);
AOTITorchError __wrap_aoti_torch_library_init_impl(const char* name, const char* key, const char* file, uint32_t line,
                                                   TorchLibraryHandle* library) {
  const char* other = std::strcmp(key, "CUDA") == 0 ? "CPU" : key;
  return __real_aoti_torch_library_init_impl(name, other, file, line, library);
}

int32_t __wrap_aoti_torch_device_type_cuda() { return aoti_torch_device_type_cpu(); }

// An operator call begins and ends with its device guard.
AOTITorchError __wrap_aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  standin::ranges().clear();
  *guard = reinterpret_cast<DeviceGuardHandle>(&standin::ranges());
  return AOTI_TORCH_SUCCESS;
}
AOTITorchError __wrap_aoti_torch_delete_device_guard(DeviceGuardHandle) {
  standin::ranges().clear();
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError __wrap_aoti_torch_get_current_cuda_stream(int32_t, void** stream) {
  *stream = nullptr;
  return AOTI_TORCH_SUCCESS;
}

AOTITorchError __real_aoti_torch_get_data_ptr(AtenTensorHandle, void**);
AOTITorchError __wrap_aoti_torch_get_data_ptr(AtenTensorHandle x, void** data) {
  const AOTITorchError error = __real_aoti_torch_get_data_ptr(x, data);
  if (error == AOTI_TORCH_SUCCESS) standin::allow(x, *data, false);
  return error;
}

AOTITorchError __real_aoti_torch_aten_new_empty(AtenTensorHandle, const int64_t*, int64_t, int32_t*, int32_t*, int32_t*,
                                                int32_t, int32_t*, AtenTensorHandle*);
AOTITorchError __wrap_aoti_torch_aten_new_empty(AtenTensorHandle like, const int64_t* sizes, int64_t dims,
                                                int32_t* dtype, int32_t* layout, int32_t* device, int32_t index,
                                                int32_t* pin, AtenTensorHandle* result) {
  int64_t count = 1;
  for (int64_t k = 0; k < dims; ++k) count *= sizes[k];
  const int64_t guarded = count + standin::kGuard;
  AtenTensorHandle whole = nullptr;
  const AOTITorchError error =
      __real_aoti_torch_aten_new_empty(like, &guarded, 1, dtype, layout, device, index, pin, &whole);
  if (error != AOTI_TORCH_SUCCESS) return error;
  torch::stable::Tensor memory(whole);
  const auto x = torch::stable::view(torch::stable::narrow(memory, 0, 0, count), {sizes, size_t(dims)});
  void* data = nullptr;
  __real_aoti_torch_get_data_ptr(x.get(), &data);
  standin::allow(x.get(), data, true);
  return aoti_torch_new_tensor_handle(x.get(), result);
}

}  // extern "C"
