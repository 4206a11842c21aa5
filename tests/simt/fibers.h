// Fibers: stacks of their own that one operating-system thread switches between.
#pragma once

#include <cstddef>
#include <cstdint>

namespace simt {

constexpr size_t kStackBytes = 256 << 10;

class Fiber {
 public:
  Fiber() = default;
  Fiber(const Fiber&) = delete;
  ~Fiber();

  // The next resume() begins `body(argument)` on an empty stack. The body must not return. `number` sets stacks apart.
  void prepare(void (*body)(void*), void* argument, int number);
  // From outside: runs the fiber until it pauses.
  void resume();
  // From within.
  void pause();

  bool owns(uintptr_t address) const { return address - stack_ < kStackBytes; }

 private:
  struct Machine;
  static void enter();

  uintptr_t stack_ = 0;  // the lowest address
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
  void* inside_ = nullptr;
  void* outside_ = nullptr;
};

}  // namespace simt
