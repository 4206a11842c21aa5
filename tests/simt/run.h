// Starts kernels.
#pragma once

#include "names.h"

namespace simt {

void run_erased(const char* name, dim3 grid, int threads, size_t shared, void (*body)(void*), void* callable);

#ifdef __clang__
#define SIMT_PLAIN __attribute__((noinline, no_sanitize("thread"), disable_sanitizer_instrumentation))
#else
#define SIMT_PLAIN __attribute__((noinline, no_sanitize("thread")))
#endif

// Without instrumentation, so that the compiler inlines nothing into it: the callable is a call of its own, and only it
// may read the host's stack, where the kernel's arguments lie.
template <class F>
SIMT_PLAIN void call(void* callable) {
  (*static_cast<F*>(callable))();
}

// Calls `callable` once for each thread of each block. Throws std::runtime_error at the first fault.
template <class F>
void run(const char* name, dim3 grid, int threads, size_t shared_bytes, const F& callable) {
  run_erased(name, grid, threads, shared_bytes, call<const F>, const_cast<void*>(static_cast<const void*>(&callable)));
}

}  // namespace simt
