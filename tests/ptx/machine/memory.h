// Addresses of the lanes, checked.
#pragma once

#include "block.h"

namespace ptx {

// What the lanes of one instruction access.
struct Accesses {
  alignas(64) uint64_t address[kLanes];  // in the space
  uint8_t* host[kLanes];                 // where that is
  uint32_t good = 0;                     // lanes that may
  uint32_t raced = 0;                    // lanes in global memory that other blocks may write
  Space space = Space::Global;           // never Generic
};

enum class Intent : uint8_t { Read, Write, Atomic };

// Calls f(Accesses&) once for each space that the addresses are in, after the checks of bounds, alignment and races.
// Lanes with a fault are not in `good`. `bytes` of a lane, a power of two.
template <class F>
void access(Warp&, const Operand& address, Space, int bytes, Intent, F f);

void prepare(Warp&, Accesses&, int bytes, Intent);  // host, good: of the addresses and the space that are given
// Shared and global memory of the block: races, uninitialised reads.
void note(Warp&, const Accesses&, int bytes, Intent);
void note_lane(Warp&, int lane, Space, uint64_t address, int bytes, Intent);
void count_traffic(Warp&, const Accesses&, int bytes);

inline Space space_of(uint64_t generic) {
  const uint64_t window = generic & kWindowMask;
  return window == kSharedWindow ? Space::Shared : window == kLocalWindow ? Space::Local : Space::Global;
}

template <class F>
void access(Warp& warp, const Operand& operand, Space space, int bytes, Intent intent, F f) {
  Accesses accesses;
  const uint64_t offset = operand.offset;
  if (operand.reg >= 0) {
    const uint64_t* base = warp.lanes(operand.reg);
    // Shared addresses may be in 32-bit registers, the upper bits of which are unspecified.
    const uint64_t mask =
        space == Space::Shared || space == Space::Local || space == Space::Param ? 0xffffffffu : ~0ull;
    for (int lane = 0; lane < kLanes; ++lane) accesses.address[lane] = (base[lane] + offset) & mask;
  } else {
    for (int lane = 0; lane < kLanes; ++lane) accesses.address[lane] = offset;
  }
  accesses.good = warp.active;
  if (space != Space::Generic) {
    accesses.space = space;
    prepare(warp, accesses, bytes, intent);
    f(accesses);
    settle(warp);
    return;
  }
  for (const Space known : {Space::Global, Space::Shared, Space::Local}) {
    Accesses part = accesses;
    part.space = known;
    part.good = 0;
    each(warp, [&](int lane) { part.good |= uint32_t(space_of(accesses.address[lane]) == known) << lane; });
    if (!part.good) continue;
    for (uint64_t& address : part.address)
      if (known != Space::Global) address &= ~kWindowMask;
    prepare(warp, part, bytes, intent);
    f(part);
    settle(warp);
  }
}

}  // namespace ptx
