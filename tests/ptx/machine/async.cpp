// cp.async (PTX ISA 9.7.9.25.3, "Non-bulk copy"). The bytes arrive when the lane that started the copy waits for its
// group, as late as a GPU may let them: until then a read or write of them is a fault, and afterwards they are a store
// of that lane, which other lanes see behind a barrier only.
#include <algorithm>

#include "family.h"
#include "memory.h"

namespace ptx {
namespace {

struct Copy {
  int lane;
  uint32_t group;  // of this lane
  uint32_t shared;
  int bytes;
  uint8_t data[16];
};

struct Copies {
  std::vector<Copy> pending;
  uint32_t groups[kLanes] = {};  // that were closed
};

Copies& copies_of(Warp& warp) {
  auto& state = warp.block.family[0];
  if (!state) state = std::make_shared<std::vector<Copies>>(warp.block.warps.size());
  return (*std::static_pointer_cast<std::vector<Copies>>(state))[warp.index];
}

// What each active lane reads: `bytes`, or fewer.
struct Sizes {
  int bytes;
  uint32_t read[kLanes];
};

Sizes sizes_of(Warp& warp, const Instruction& i) {
  Sizes sizes;
  sizes.bytes = int(i[2].bits);
  for (int lane = 0; lane < kLanes; ++lane)
    sizes.read[lane] = i.operands.size() > 3 ? uint32_t(warp.values(i[3])[lane]) : sizes.bytes;
  each(warp, [&](int lane) {
    if (sizes.read[lane] <= uint32_t(sizes.bytes)) return;
    fault(warp, lane, "size of a copy",
          std::to_string(sizes.read[lane]) + " bytes to read for " + std::to_string(sizes.bytes));
    sizes.read[lane] = sizes.bytes;
  });
  return sizes;
}

// Source and destination, checked.
Accesses accesses_of(Warp& warp, const Operand& address, Space space, uint32_t lanes, int bytes) {
  Accesses accesses;
  accesses.space = space;
  accesses.good = lanes;
  const uint64_t mask = space == Space::Shared ? 0xffffffffu : ~uint64_t{0};
  for (int lane = 0; lane < kLanes; ++lane)
    accesses.address[lane] = ((address.reg < 0 ? 0 : warp.lanes(address.reg)[lane]) + address.offset) & mask;
  if (space == Space::Global) {
    prepare(warp, accesses, bytes, Intent::Read);
    return accesses;
  }
  if (warp.block.launch.options.check & kTraffic) count_traffic(warp, accesses, bytes);
  for (uint32_t left = lanes; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    if (!memory(warp, lane, Space::Shared, accesses.address[lane], bytes, true)) accesses.good &= ~(1u << lane);
  }
  return accesses;
}

void read_part(Warp& warp, Copy& copy, uint64_t source, uint32_t read) {
  if (source % copy.bytes != 0)
    fault(warp, copy.lane, "alignment", "source of an asynchronous copy of " + std::to_string(copy.bytes) + " bytes");
  for (uint32_t k = 0; k < read; ++k) load(warp, copy.lane, Space::Global, source + k, copy.data + k, 1);
}

void start(Warp& warp, const Copy& copy) {
  const auto pending = warp.block.shadow.pending.begin() + copy.shared;
  if (std::any_of(pending, pending + copy.bytes, [](uint8_t state) { return state != 0; }))
    fault(warp, copy.lane, "asynchronous copy", "into bytes that another copy or product is still under way for");
  set_pending(warp, copy.shared, copy.bytes, false);
  store(warp, copy.lane, Space::Shared, copy.shared, copy.data, copy.bytes);
  set_pending(warp, copy.shared, copy.bytes, true);
}

// Destination, source, size, and how much of it is read; the others are zero.
void copy(Warp& warp, const Instruction& i) {
  Copies& copies = copies_of(warp);
  const Sizes sizes = sizes_of(warp, i);
  uint32_t whole = 0;
  each(warp, [&](int lane) { whole |= uint32_t(sizes.read[lane] == uint32_t(sizes.bytes)) << lane; });
  const Accesses to = accesses_of(warp, i[0], Space::Shared, warp.active, sizes.bytes);
  const Accesses from = accesses_of(warp, i[1], Space::Global, whole, sizes.bytes);
  const bool checks = warp.block.launch.checks();
  for (uint32_t left = to.good; left; left &= left - 1) {
    const int lane = __builtin_ctz(left);
    Copy made = {lane, copies.groups[lane], uint32_t(to.address[lane]), sizes.bytes, {}};
    if (!(whole >> lane & 1))
      read_part(warp, made, from.address[lane], sizes.read[lane]);
    else if (from.good >> lane & 1)
      std::memcpy(made.data, from.host[lane], sizes.bytes);
    if (checks) start(warp, made);
    copies.pending.push_back(made);
  }
}

void commit(Warp& warp, const Instruction&) {
  Copies& copies = copies_of(warp);
  each(warp, [&](int lane) { ++copies.groups[lane]; });
}

// All groups of the active lanes but the last `but`; with `but` < 0 also copies that are in no group.
void wait(Warp& warp, int64_t but) {
  Copies& copies = copies_of(warp);
  std::vector<Copy> left;
  for (const Copy& copy : copies.pending) {
    const bool arrived =
        (warp.active >> copy.lane & 1) && (but < 0 || int64_t(copy.group) < copies.groups[copy.lane] - but);
    if (!arrived) {
      left.push_back(copy);
      continue;
    }
    if (warp.block.launch.checks()) set_pending(warp, copy.shared, copy.bytes, false);
    store(warp, copy.lane, Space::Shared, copy.shared, copy.data, copy.bytes);
  }
  copies.pending.swap(left);
}

void wait_group(Warp& warp, const Instruction& i) { wait(warp, int64_t(i[0].bits)); }
void wait_all(Warp& warp, const Instruction&) { wait(warp, -1); }

Run decode_async(Instruction& i) {
  Suffixes suffixes{i};
  if (!suffixes.take("async")) return nullptr;
  i.counted = Class::Asynchronous;
  if (suffixes.take("commit_group")) return suffixes.done() && i.operands.empty() ? commit : nullptr;
  if (suffixes.take("wait_all")) return suffixes.done() && i.operands.empty() ? wait_all : nullptr;
  if (suffixes.take("wait_group"))
    return suffixes.done() && i.operands.size() == 1 && i[0].kind == Operand::Immediate ? wait_group : nullptr;
  const int cache = suffixes.take_one({"ca", "cg"});
  if (cache < 0 || suffixes.take_one({"shared", "shared::cta"}) < 0 || !suffixes.take("global")) return nullptr;
  suffixes.take_one({"L2::64B", "L2::128B", "L2::256B"});  // prefetches: no effect that can be seen
  if (!suffixes.done() || i.operands.size() < 3 || i.operands.size() > 4) return nullptr;
  if (i[0].kind != Operand::Address || i[1].kind != Operand::Address || i[2].kind != Operand::Immediate) return nullptr;
  const uint64_t bytes = i[2].bits;
  if (!(bytes == 16 || (cache == 0 && (bytes == 4 || bytes == 8)))) return nullptr;
  if (i.operands.size() == 4 && !is_value(i[3])) return nullptr;
  return copy;
}

Family family({"cp"}, decode_async);

}  // namespace
}  // namespace ptx
