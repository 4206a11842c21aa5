// Where addresses are, and whether a lane may access them (PTX ISA, section 5.1 and 6.4).
#include "memory.h"

#include <algorithm>
#include <bit>

namespace ptx {
namespace {

std::string hex(uint64_t value) {
  char text[32];
  std::snprintf(text, sizeof text, "0x%llx", static_cast<unsigned long long>(value));
  return text;
}

const char* name_of(Space space) {
  constexpr const char* kNames[] = {"generic", "global", "shared", "parameter", "constant", "local"};
  return kNames[int(space)];
}

// Memory of the host in one piece: of addresses from `begin`.
struct Piece {
  uint64_t begin, size;
  uint8_t* host;
  bool writable;
};

// The range that an address is in, or the one that the warp used last.
const Range* find(const Launch& launch, uint64_t address) {
  const auto after = std::upper_bound(launch.ranges.begin(), launch.ranges.end(), address,
                                      [](uint64_t value, const Range& range) { return value < range.begin; });
  if (after == launch.ranges.begin()) return nullptr;
  const Range* range = &*(after - 1);
  return address < range->end ? range : nullptr;
}

Piece piece(Warp& warp, int lane, Space space, uint64_t address) {
  Launch& launch = warp.block.launch;
  switch (space) {
    case Space::Shared: return {0, warp.block.shared.size(), warp.block.shared.data(), true};
    case Space::Param: return {0, launch.parameters.size(), launch.parameters.data(), false};
    case Space::Local:
      return {0, launch.kernel.local_bytes, warp.local + size_t{launch.kernel.local_bytes} * lane, true};
    default: {
      const Range* range = find(launch, address);
      if (!range) return {0, 0, nullptr, false};
      return {range->begin, range->end - range->begin, reinterpret_cast<uint8_t*>(range->begin), range->writable != 0};
    }
  }
}

void outside(Warp& warp, int lane, Space space, uint64_t address, int bytes, Intent intent) {
  const char* verb = intent == Intent::Read ? "reads " : intent == Intent::Write ? "writes " : "changes ";
  std::string text = verb + std::to_string(bytes) + " bytes at " + hex(address) + " of " + name_of(space) + " memory";
  if (space == Space::Shared) text += " of " + std::to_string(warp.block.shared.size()) + " bytes";
  fault(warp, lane, "bounds", text);
}

// Where one lane accesses, or nullptr after a fault.
uint8_t* checked(Warp& warp, int lane, Space space, uint64_t address, int bytes, Intent intent, bool& writable) {
  if (address & (std::bit_ceil(unsigned(bytes)) - 1)) {
    fault(warp, lane, "alignment",
          std::to_string(bytes) + " bytes at " + hex(address) + " of " + name_of(space) + " memory");
    return nullptr;
  }
  const Piece found = piece(warp, lane, space, address);
  const uint64_t offset = address - found.begin;
  if (!found.host || offset > found.size || found.size - offset < uint64_t(bytes)) {
    outside(warp, lane, space, address, bytes, intent);
    return nullptr;
  }
  if (intent != Intent::Read && !found.writable) {
    fault(warp, lane, "read-only",
          "writes " + std::to_string(bytes) + " bytes at " + hex(address) + " of " + name_of(space) +
              " memory that may only be read");
    return nullptr;
  }
  writable = found.writable;
  return found.host + offset;
}

// Whether all lanes are in one piece and aligned: the common case.
bool all_in_one(Warp& warp, Accesses& accesses, int bytes, Intent intent) {
  if (accesses.space == Space::Local) return false;
  uint64_t least = ~0ull, most = 0, all = 0;
  const uint32_t good = accesses.good;
  for (int lane = 0; lane < kLanes; ++lane) {
    const bool used = good >> lane & 1;
    const uint64_t address = accesses.address[lane];
    least = std::min(least, used ? address : ~uint64_t{0});
    most = std::max(most, used ? address : uint64_t{0});
    all |= used ? address : 0;
  }
  if (all & (bytes - 1)) return false;
  const Piece found = piece(warp, 0, accesses.space, least);
  const uint64_t offset = most - found.begin;
  if (!found.host || offset > found.size || found.size - offset < uint64_t(bytes)) return false;
  if (intent != Intent::Read && !found.writable) return false;
  for (int lane = 0; lane < kLanes; ++lane) accesses.host[lane] = found.host + (accesses.address[lane] - found.begin);
  accesses.raced = found.writable ? accesses.good : 0;
  return true;
}

}  // namespace

void prepare(Warp& warp, Accesses& accesses, int bytes, Intent intent) {
  if (!all_in_one(warp, accesses, bytes, intent)) {
    for (uint32_t left = accesses.good; left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      bool writable = false;
      accesses.host[lane] = checked(warp, lane, accesses.space, accesses.address[lane], bytes, intent, writable);
      if (!accesses.host[lane]) accesses.good &= ~(1u << lane);
      accesses.raced |= uint32_t{writable} << lane;
    }
  }
  const int check = warp.block.launch.options.check;
  if (check & kTraffic) count_traffic(warp, accesses, bytes);
  if (check & kFaults) note(warp, accesses, bytes, intent);
}

uint8_t* memory(Warp& warp, int lane, Space space, uint64_t address, int bytes, bool writes) {
  if (space == Space::Generic) {
    space = space_of(address);
    if (space != Space::Global) address &= ~kWindowMask;
  }
  bool writable;
  return checked(warp, lane, space, address, bytes, writes ? Intent::Write : Intent::Read, writable);
}

void load(Warp& warp, int lane, Space space, uint64_t address, void* out, int bytes) {
  if (space == Space::Generic) {
    space = space_of(address);
    if (space != Space::Global) address &= ~kWindowMask;
  }
  bool writable = false;
  const uint8_t* from = checked(warp, lane, space, address, bytes, Intent::Read, writable);
  if (!from) {
    std::memset(out, 0, bytes);
    return;
  }
  if (warp.block.launch.checks() && writable) note_lane(warp, lane, space, address, bytes, Intent::Read);
  std::memcpy(out, from, bytes);
}

void store(Warp& warp, int lane, Space space, uint64_t address, const void* in, int bytes) {
  if (space == Space::Generic) {
    space = space_of(address);
    if (space != Space::Global) address &= ~kWindowMask;
  }
  bool writable;
  uint8_t* to = checked(warp, lane, space, address, bytes, Intent::Write, writable);
  if (!to) return;
  if (warp.block.launch.checks()) note_lane(warp, lane, space, address, bytes, Intent::Write);
  std::memcpy(to, in, bytes);
  settle(warp);
}

}  // namespace ptx
