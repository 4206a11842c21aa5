// cp.async (PTX ISA 9.7.9.25.3, "Non-bulk copy"). The bytes arrive when the lane that started the copy waits for its
// group, as late as a GPU may let them: until then a read or write of them is a fault, and afterwards they are a store
// of that lane, which other lanes see behind a barrier only.
#include <algorithm>

#include "block.h"
#include "family.h"

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

uint64_t address_of(Warp& warp, const Operand& address, int lane, bool shared) {
  const uint64_t base = address.reg < 0 ? 0 : warp.lanes(address.reg)[lane];
  return shared ? uint32_t(base + address.offset) : base + address.offset;
}

// Destination, source, size, and how much of it is read; the others are zero.
void copy(Warp& warp, const Instruction& i) {
  Copies& copies = copies_of(warp);
  const int bytes = int(i[2].bits);
  each(warp, [&](int lane) {
    Copy made = {lane, copies.groups[lane], uint32_t(address_of(warp, i[0], lane, true)), bytes, {}};
    uint32_t read = bytes;
    if (i.operands.size() > 3) read = uint32_t(warp.values(i[3])[lane]);
    if (read > uint32_t(bytes)) {
      fault(warp, lane, "size of a copy", std::to_string(read) + " bytes to read for " + std::to_string(bytes));
      read = bytes;
    }
    const uint64_t source = address_of(warp, i[1], lane, false);
    if (source % bytes != 0) {
      fault(warp, lane, "misaligned", "source of an asynchronous copy of " + std::to_string(bytes) + " bytes");
      return;
    }
    if (read == uint32_t(bytes)) {
      load(warp, lane, Space::Global, source, made.data, bytes);
    } else {
      for (uint32_t k = 0; k < read; ++k) load(warp, lane, Space::Global, source + k, made.data + k, 1);
    }
    if (!memory(warp, lane, Space::Shared, made.shared, bytes, true)) return;
    const auto pending = warp.block.shadow.pending.begin() + made.shared;
    if (warp.block.launch.checks() && std::any_of(pending, pending + bytes, [](uint8_t state) { return state != 0; }))
      fault(warp, lane, "asynchronous copy", "into bytes that another copy or product is still under way for");
    set_pending(warp, made.shared, bytes, true);
    copies.pending.push_back(made);
  });
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
    set_pending(warp, copy.shared, copy.bytes, false);
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
