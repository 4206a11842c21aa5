// The device that kernels believe to run on: a target of PTX, and how the machine is to run it.
#pragma once

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "../machine/api.h"

namespace standin {

// Told of each launch before it runs: the module's PTX, and what ptx_launch is given.
using Observer = void (*)(const char* text, const char* kernel, const uint32_t* grid, const uint32_t* threads,
                          uint32_t shared, void** arguments, const ptx_range* ranges, size_t count);

struct Device {
  std::string target = "sm_80";
  int processors = 3;
  int shared_limit = 163 << 10;     // of a block (CUDA C++ Programming Guide, compute capabilities)
  ptx_options options{0, 3, 0, 0};  // of the machine
  Observer observer = nullptr;
  bool executes = true;  // or launches are checked and reported only
};
Device& device();

// Of cudaFuncSetAttribute.
struct Attributes {
  std::atomic<int> calls = 0;
  std::atomic<int> pause = 0;  // milliseconds after the attribute is set
  std::atomic<bool> refused = false;
};
Attributes& attributes();

// What the machine reported of each launch: a line of the kernel's name and one of JSON.
struct Reports {
  std::mutex mutex;
  std::vector<std::string> lines;
};
Reports& reports();

}  // namespace standin
