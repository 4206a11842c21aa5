// What stands between the CUDA backend and torch: operators are registered for CPU tensors, and these pass for tensors
// of a CUDA device; every tensor whose address is asked for is memory that kernels may touch until the operator
// returns. The linker redirects the calls of the backend (--wrap).
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>

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
  std::vector<Range>& all = ranges();
  Range whole{begin, end, writable};
  // Views of one tensor may overlap: together they are one range, as the machine expects.
  const auto overlaps = [&](const Range& known) {
    if (known.end <= whole.begin || known.begin >= whole.end) return false;
    whole = {std::min(known.begin, whole.begin), std::max(known.end, whole.end), known.writable | whole.writable};
    return true;
  };
  for (auto known = all.begin(); known != all.end();) known = overlaps(*known) ? all.erase(known) : known + 1;
  all.push_back(whole);
}

}  // namespace
}  // namespace standin

extern "C" {

AOTITorchError __real_torch_call_dispatcher(const char*, const char*, StableIValue*, uint64_t);
AOTITorchError __real_aoti_torch_get_data_ptr(AtenTensorHandle, void**);

}  // extern "C"

namespace standin {
namespace {

// A tensor like `x` with the guard behind it, of memory that kernels may write.
torch::stable::Tensor guarded(const torch::stable::Tensor& x) {
  using torch::stable::detail::from;
  const std::vector<int64_t> whole{x.numel() + kGuard};
  std::vector<int64_t> sizes;
  for (int64_t k = 0; k < x.dim(); ++k) sizes.push_back(x.size(k));
  std::array<StableIValue, 6> stack{
      from(x),           from(whole), from(std::optional(x.scalar_type())), from(std::nullopt), from(std::nullopt),
      from(std::nullopt)};
  STABLE_TORCH_ERROR_CODE_CHECK(__real_torch_call_dispatcher("aten::new_empty", "", stack.data(), TORCH_ABI_VERSION));
  auto memory = torch::stable::detail::to<torch::stable::Tensor>(stack[0]);
  auto result = torch::stable::view(torch::stable::narrow(memory, 0, 0, x.numel()), sizes);
  void* data = nullptr;
  STABLE_TORCH_ERROR_CODE_CHECK(__real_aoti_torch_get_data_ptr(result.get(), &data));
  allow(result.get(), data, true);
  return result;
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

AOTITorchError __wrap_aoti_torch_get_data_ptr(AtenTensorHandle x, void** data) {
  const AOTITorchError error = __real_aoti_torch_get_data_ptr(x, data);
  if (error == AOTI_TORCH_SUCCESS) standin::allow(x, *data, false);
  return error;
}

AOTITorchError __wrap_torch_call_dispatcher(const char* name, const char* overload, StableIValue* stack,
                                            uint64_t version) {
  const AOTITorchError error = __real_torch_call_dispatcher(name, overload, stack, version);
  if (error != AOTI_TORCH_SUCCESS || std::strcmp(name, "aten::new_empty") != 0) return error;
  stack[0] = torch::stable::detail::from(standin::guarded(torch::stable::detail::to<torch::stable::Tensor>(stack[0])));
  return error;
}

}  // extern "C"
