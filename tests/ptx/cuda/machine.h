// The C interface of the machine (machine/api.cpp), as far as the CUDA runtime needs it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory.h"

extern "C" {

struct ptx_options {
  uint64_t seed;
  int check;
  double approximate_error;
  uint64_t most_instructions;
};

void* ptx_load(const char* text, char* error, size_t error_size);
int ptx_parameters(void* module, const char* kernel, uint32_t* sizes, int most);
int ptx_launch(void* module, const char* kernel, const uint32_t grid[3], const uint32_t block[3],
               uint32_t dynamic_shared, const void* const* parameters, const standin::Range* ranges, size_t range_count,
               const ptx_options* options, char* report, size_t report_size);

}  // extern "C"
