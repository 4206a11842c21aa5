// The block that is running: its threads, who waits for what, and how a fault ends it.
//
// Faults seen here: barriers that some threads of the block do not reach or reach elsewhere, and operations of a warp
// that lanes of their mask do not reach.
#pragma once

#include <string>
#include <vector>

#include "fibers.h"
#include "names.h"

namespace simt {

constexpr int kLanes = 32;
constexpr int kMostThreads = 1024;
constexpr size_t kMostShared = 227 << 10;

// What a thread waits for, or did last. Lanes exchange data through `operands`, which lies on the thread's stack.
struct Request {
  const char* name;
  const char* file;
  int line;
  uint32_t mask;
  void* operands;

  bool same(const Request& other) const { return line == other.line && name == other.name && mask == other.mask; }
  std::string text() const;
};

struct Copy {
  void* to;
  const void* from;
  int bytes;
  int64_t group;
};

enum class State : uint8_t { kReady, kAtBarrier, kAtWarp, kExited };

struct Warp;

struct Thread {
  Fiber fiber;
  int index = 0, lane = 0;
  Warp* warp = nullptr;
  State state = State::kExited;
  int depth = 0;  // calls that the kernel is in
  Request request{};
  std::vector<Copy> copies;  // in flight, oldest first
  int64_t groups = 0;        // closed groups of copies
};

struct Warp {
  int index = 0, lanes = 0;
  uint32_t waiting = 0;  // lanes in meet()
  Thread* threads = nullptr;
  // Accesses of lane j stamped below max(all, seen[i][j]) come before what lane i does now.
  uint64_t all = 0, seen[kLanes][kLanes] = {};
};

// Null outside kernels.
extern thread_local Thread* current __attribute__((tls_model("initial-exec")));

struct Running {
  const char* kernel = "";
  dim3 grid{0, 0, 0}, block;  // the block's index
  int threads = 0;
  size_t shared = 0;
};
extern Running running;

// Waits for the lanes of request.mask; the last to come calls finish(warp, mask).
void meet(Request request, void (*finish)(Warp&, uint32_t mask));

// Ends the launch with an error about this thread or, outside kernels, throws it. `at` is where in the code.
[[noreturn]] void fail(const std::string& what, const void* at = nullptr);

std::string thread_text(int index);
bool on_host_stack(uintptr_t address);
bool on_any_fiber(uintptr_t address);

}  // namespace simt
