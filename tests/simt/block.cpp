#include "block.h"

#include <pthread.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <random>
#include <stdexcept>

#include "barriers.h"
#include "run.h"
#include "shadow.h"

namespace simt {

thread_local Thread* current = nullptr;
Running running;

namespace {

// Everything about the launch but what block.h shows of it.
struct Launch {
  std::unique_ptr<Thread[]> threads{new Thread[kMostThreads]};
  Warp warps[kMostThreads / kLanes];
  int warp_count = 0;
  void (*body)(void*) = nullptr;
  void* callable = nullptr;
  std::string error;
  int barrier_votes = 0;
  uintptr_t host_low = 0, host_high = 0;
};
Launch& state() {
  static Launch launch;
  return launch;
}

std::string block_text(dim3 block) {
  return "block (" + std::to_string(block.x) + ", " + std::to_string(block.y) + ", " + std::to_string(block.z) + ")";
}

// An order of 0...count-1: as they are, reversed, or shuffled.
class Order {
 public:
  Order() {
    const char* text = std::getenv("MULTIMIX_SIMT_ORDER");
    if (text == nullptr || *text == 0 || std::strcmp(text, "forward") == 0) return;
    if (std::strcmp(text, "reverse") == 0) {
      kind_ = kReverse;
      return;
    }
    char* end = nullptr;
    random_.seed(std::strtoul(text, &end, 10));
    if (*end != 0) throw std::runtime_error("MULTIMIX_SIMT_ORDER: expected forward, reverse or a number");
    kind_ = kShuffled;
  }
  void fill(std::vector<int64_t>& order, int64_t count) {
    order.resize(size_t(count));
    for (int64_t i = 0; i < count; ++i) order[size_t(i)] = kind_ == kReverse ? count - 1 - i : i;
    if (kind_ == kShuffled) shuffle(order);
  }
  void again(std::vector<int64_t>& order) {
    if (kind_ == kShuffled) shuffle(order);
  }

 private:
  enum { kForward, kReverse, kShuffled } kind_ = kForward;
  std::mt19937_64 random_;

  void shuffle(std::vector<int64_t>& order) {  // std::shuffle differs between libraries
    for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random_() % i]);
  }
};

void run_thread(void* argument) {
  Thread& self = *static_cast<Thread*>(argument);
  for (;;) {
    try {
      state().body(state().callable);
    } catch (const std::exception& error) {
      fail(std::string("exception: ") + error.what());
    }
    self.state = State::kExited;
    self.fiber.pause();
  }
}

void resume(Thread& thread) {
  current = &thread;
  thread.fiber.resume();
  current = nullptr;
  if (!state().error.empty()) throw std::runtime_error(state().error);
}

[[noreturn]] void fail_divergent(Warp& warp) {
  for (int i = 0; i < warp.lanes; ++i) {
    const Thread& waiting = warp.threads[i];
    if (waiting.state != State::kAtWarp) continue;
    for (int j = 0; j < kLanes; ++j) {
      if (!(waiting.request.mask >> j & 1)) continue;
      const std::string start = "divergent warp operation: " + thread_text(waiting.index) + " waits at " +
                                waiting.request.text() + " for lane " + std::to_string(j);
      if (j >= warp.lanes) fail(start + ", which does not exist");
      const Thread& other = warp.threads[j];
      if (other.state == State::kExited) fail(start + ", which has exited");
      if (!other.request.same(waiting.request) || other.state != State::kAtWarp)
        fail(start + ", which is at " + other.request.text());
    }
  }
  fail("divergent warp operation");
}

// Until each lane has exited or is at a barrier.
void run_warp(Warp& warp, std::vector<int64_t>& lanes, Order& order) {
  for (bool any = true; any;) {
    any = false;
    order.again(lanes);
    for (int64_t lane : lanes)
      if (lane < warp.lanes && warp.threads[lane].state == State::kReady) resume(warp.threads[lane]), any = true;
  }
  for (int lane = 0; lane < warp.lanes; ++lane)
    if (warp.threads[lane].state == State::kAtWarp) fail_divergent(warp);
}

// Whether there was anything to do: false once all threads have exited.
bool release_barrier() {
  Thread* threads = state().threads.get();
  const Thread* waiting = nullptr;
  const Thread* exited = nullptr;
  for (int i = 0; i < running.threads; ++i) {
    if (threads[i].state == State::kExited) {
      if (exited == nullptr) exited = &threads[i];
    } else if (waiting == nullptr) {
      waiting = &threads[i];
    } else if (!waiting->request.same(threads[i].request)) {
      fail("barrier not reached by all threads: " + thread_text(waiting->index) + " is at " + waiting->request.text() +
           ", " + thread_text(i) + " at " + threads[i].request.text());
    }
  }
  if (waiting == nullptr) return false;
  if (exited != nullptr)
    fail("barrier not reached by all threads: " + thread_text(waiting->index) + " is at " + waiting->request.text() +
         ", " + thread_text(exited->index) + " has exited");
  int votes = 0;
  for (int i = 0; i < running.threads; ++i) {
    votes += *static_cast<const bool*>(threads[i].request.operands);
    threads[i].state = State::kReady;
  }
  state().barrier_votes = votes;
  shadow_clock.barrier = shadow_clock.tick();
  return true;
}

void run_block(Order& order, std::vector<int64_t>& warps, std::vector<int64_t>& lanes) {
  Launch& launch = state();
  shadow_clock.barrier = shadow_clock.block = shadow_clock.tick();
  open_shared(running.shared);
  for (int i = 0; i < running.threads; ++i) {
    Thread& thread = launch.threads[i];
    thread.state = State::kReady;
    thread.depth = 0;
    thread.request = {};
    thread.copies.clear();
    thread.groups = 0;
  }
  do {
    order.again(warps);
    for (int64_t warp : warps) run_warp(launch.warps[warp], lanes, order);
  } while (release_barrier());
}

void check_configuration(dim3 grid, int threads, size_t shared) {
  if (threads < 1 || threads > kMostThreads)
    fail(std::to_string(threads) + " threads in a block: at most " + std::to_string(kMostThreads));
  if (shared > kMostShared)
    fail(std::to_string(shared) + " bytes of shared memory: at most " + std::to_string(kMostShared));
  if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
    fail("a grid of " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " + std::to_string(grid.z) +
         " blocks: at most 2^31 - 1 x 65535 x 65535, and no empty ones");
}

void prepare(int threads) {
  Launch& launch = state();
  launch.error.clear();
  launch.warp_count = (threads + kLanes - 1) / kLanes;
  for (int i = 0; i < threads; ++i) {
    Thread& thread = launch.threads[i];
    thread.index = i, thread.lane = i % kLanes, thread.warp = &launch.warps[i / kLanes];
    thread.fiber.prepare(run_thread, &thread, i);
  }
  for (int i = 0; i < launch.warp_count; ++i) {
    launch.warps[i].index = i;
    launch.warps[i].lanes = std::min(kLanes, threads - i * kLanes);
    launch.warps[i].threads = &launch.threads[i * kLanes];
    launch.warps[i].waiting = 0;
  }
  pthread_attr_t attributes;
  pthread_getattr_np(pthread_self(), &attributes);
  void* low = nullptr;
  size_t bytes = 0;
  pthread_attr_getstack(&attributes, &low, &bytes);
  pthread_attr_destroy(&attributes);
  launch.host_low = uintptr_t(low), launch.host_high = uintptr_t(low) + bytes;
}

}  // namespace

std::string Request::text() const {
  if (name == nullptr) return "no barrier";
  const char* slash = std::strrchr(file, '/');
  return std::string(name) + " (" + (slash ? slash + 1 : file) + ":" + std::to_string(line) + ")";
}

std::string thread_text(int index) { return "thread " + std::to_string(index); }

bool on_host_stack(uintptr_t address) { return address >= state().host_low && address < state().host_high; }

bool on_any_fiber(uintptr_t address) {
  for (int i = 0; i < running.threads; ++i)
    if (state().threads[i].fiber.owns(address)) return true;
  return false;
}

void fail(const std::string& what, const void* at) {
  std::string message = std::string("kernel '") + running.kernel + "'";
  if (running.grid.x != 0) message += ", " + block_text(running.block);
  if (current != nullptr) message += ", " + thread_text(current->index);
  message += ": " + what;
  if (at != nullptr) message += code(at);
  if (current == nullptr) throw std::runtime_error(message);
  state().error = message;
  for (;;) current->fiber.pause();
}

void meet(Request request, void (*finish)(Warp&, uint32_t mask)) {
  Thread& self = *current;
  Warp& warp = *self.warp;
  self.request = request;
  if (!(request.mask >> self.lane & 1)) fail(request.text() + ": the mask does not name the calling lane");
  self.state = State::kAtWarp;
  warp.waiting |= 1u << self.lane;
  bool all = (warp.waiting & request.mask) == request.mask;
  for (uint32_t left = all ? request.mask : 0; left != 0; left &= left - 1)
    all &= warp.threads[__builtin_ctz(left)].request.same(request);
  if (!all) return self.fiber.pause();
  finish(warp, request.mask);
  warp.waiting &= ~request.mask;
  for (uint32_t left = request.mask; left != 0; left &= left - 1)
    warp.threads[__builtin_ctz(left)].state = State::kReady;
}

int sync_threads(const char* name, bool predicate, const char* file, int line) {
  current->request = {name, file, line, 0, &predicate};
  current->state = State::kAtBarrier;
  current->fiber.pause();
  return state().barrier_votes;
}

uint3 thread_index() { return {unsigned(current->index), 0, 0}; }
uint3 block_index() { return {running.block.x, running.block.y, running.block.z}; }
dim3 block_size() { return dim3(unsigned(running.threads)); }
dim3 grid_size() { return running.grid; }

void run_erased(const char* name, dim3 grid, int threads, size_t shared, void (*body)(void*), void* callable) {
  static std::mutex one_at_a_time;
  if (current != nullptr) fail("a kernel cannot start another");
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  struct Finally {
    ~Finally() {
      current = nullptr;
      running = {};
      close_shared();
    }
  } finally;
  running.kernel = name;
  check_configuration(grid, threads, shared);
  running.grid = grid, running.threads = threads, running.shared = shared;
  prepare(threads);
  state().body = body, state().callable = callable;
  shadow_clock.launch = shadow_clock.tick();
  Order order;
  std::vector<int64_t> blocks, warps, lanes;
  order.fill(blocks, int64_t(grid.x) * grid.y * grid.z);
  order.fill(warps, state().warp_count);
  order.fill(lanes, kLanes);
  for (int64_t block : blocks) {
    running.block =
        dim3(unsigned(block % grid.x), unsigned(block / grid.x % grid.y), unsigned(block / grid.x / grid.y));
    run_block(order, warps, lanes);
  }
}

}  // namespace simt
