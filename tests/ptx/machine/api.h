// The C interface of the machine.
#pragma once

#include <cstddef>
#include <cstdint>

#define PTX_API __attribute__((visibility("default")))

extern "C" {

struct ptx_range {  // memory that a kernel may touch
  uint64_t begin, end;
  int writable;
};

struct ptx_options {
  uint64_t seed;               // order of blocks and warps; 0: as they are numbered
  int check;                   // 1: races and uninitialised reads; 2: counts of memory traffic; 3: both
  double approximate_error;    // of approximate functions: 0 none .. 1 the documented bound, the sign by seed
  uint64_t most_instructions;  // of all warps; 0: any number; more are a fault
};

PTX_API void* ptx_load(const char* text, char* error, size_t error_size);  // NULL and the reason on failure
PTX_API void ptx_unload(void* module);
PTX_API int ptx_kernels(void* module, char* names, size_t size);  // how many; the names with newlines between
PTX_API int ptx_parameters(void* module, const char* kernel, uint32_t* sizes,
                           int most);                                       // how many; -1: no such kernel
PTX_API void* ptx_symbol(void* module, const char* name, uint64_t* bytes);  // of a .global or .const variable
// The number of faults, 0 if all is well. The report is JSON: faults, counts. parameters[k] points to the k-th.
PTX_API int ptx_launch(void* module, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
                       uint32_t dynamic_shared, const void* const* parameters, const ptx_range* ranges,
                       size_t range_count, const ptx_options* options, char* report, size_t report_size);
}
