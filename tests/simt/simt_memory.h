// What kernels may touch of the host's memory. Host code calls this.
#pragma once

#include <cstddef>

namespace simt {

// Kernels may read these bytes, and write them if `writable`. Buffers may overlap.
void allow(const void* begin, size_t bytes, bool writable = true, const char* name = "");
// Takes back every allowance that begins here, or all there are.
void forget(const void* begin);
void forget_all();
// Until a kernel writes a byte of these, reading it is an error.
void poison(const void* begin, size_t bytes);

}  // namespace simt
