// A warp that executes, and what every family of instructions uses of it.
#pragma once

#include <cstring>

#include "program.h"

namespace ptx {

struct Block;

// Lanes that are at the same instruction. A warp that has diverged has several.
struct Fragment {
  int pc;
  uint32_t mask;
  bool parked;  // waits at pc for other lanes of the warp
};

struct Warp {
  enum State : uint8_t { Ready, AtBarrier, Done };

  Block& block;
  int index;              // in its block
  uint64_t* registers;    // 64 bits for each of 32 lanes; narrower values in the low bits, the others unspecified;
                          // predicates are 0 or 1; .b128 takes two registers, the low half first
  uint32_t active = 0;    // lanes that execute the current instruction: the guard predicate is applied
  uint32_t mask = 0;      // lanes of the running fragment
  uint32_t live = 0;      // lanes that have not left the kernel
  int pc = 0;             // of the instruction after the current one
  int limit = INT32_MAX;  // the next pc at which another fragment waits
  State state = Ready;
  bool yields = false;  // lets other warps run: set by an instruction that polls
  int barrier = -1;     // that it waits at
  uint32_t pieces = 0;  // instructions since the fragments were last chosen fairly
  std::vector<Fragment> others;
  const Instruction* current = nullptr;
  uint8_t* local = nullptr;  // local_bytes for each lane, one lane after the other

  Warp(Block& block, int index) : block(block), index(index) {}
  uint64_t* lanes(int reg) { return registers + size_t{kLanes} * reg; }
  // The 32 values of a register or an immediate.
  const uint64_t* values(const Operand& operand) {
    return operand.constant ? operand.constant : registers + size_t{kLanes} * operand.reg;
  }
  // The same as one bit a lane; a negated predicate is inverted.
  uint32_t bits(const Operand& operand);
  void set_bits(const Operand& predicate, uint32_t bits);  // in the active lanes

  // For instructions that need the lanes of `wanted` (that have not left) together. If it is false, some are elsewhere:
  // return at once; the instruction is executed again when they are here.
  bool gather(uint32_t wanted);
  void jump(int target, uint32_t taken);  // lanes of `mask`
  void leave(uint32_t leaving);           // the kernel
  void choose();                          // the fragment that runs
};

// Memory, checked. `address` is in the space: an offset for Shared, Local and Param. A load that is a fault gives
// zeros, a store that is one is left out.
void load(Warp&, int lane, Space space, uint64_t address, void* out, int bytes);
void store(Warp&, int lane, Space space, uint64_t address, const void* in, int bytes);
// The same bytes without race checks, for families that report on their own (asynchronous copies, wgmma): nullptr after
// a fault if they are outside or misaligned. Shared and Global only.
uint8_t* memory(Warp&, int lane, Space space, uint64_t address, int bytes, bool writes);
// Recorded once for each kind and instruction, with kernel, block, warp, lane and line.
void fault(Warp&, int lane, const char* kind, std::string text);

// Calls f(lane) for some lanes, or the active ones.
template <class F>
inline void each(uint32_t lanes, F f) {
  for (; lanes; lanes &= lanes - 1) f(__builtin_ctz(lanes));
}
template <class F>
inline void each(const Warp& warp, F f) {
  each(warp.active, f);
}

template <class T>
inline T as(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

template <class T>
inline uint64_t bits_of(T value) {
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}

}  // namespace ptx
