// bar, barrier (PTX ISA, section 9.7.13.1), bar.warp.sync (9.7.13.2), membar and fence (9.7.13.4).
#include "block.h"
#include "family.h"

namespace ptx {
namespace {

enum Form { Sync, Arrive, Popc, And, Or };

int live_warps(const Block& block) {
  int live = 0;
  for (const Warp& warp : block.warps) live += warp.state != Warp::Done;
  return live;
}

void complete(Block& block, int number) {
  Barrier& barrier = block.barriers[number];
  for (uint32_t left = barrier.waiting; left; left &= left - 1) {
    Warp& warp = block.warps[__builtin_ctz(left)];
    warp.state = Warp::Ready;
    if (block.launch.checks()) block.shadow.pass(barrier.clock, warp.index);
    const Instruction& i = *warp.current;
    const int form = i.data[0];
    if (form >= Popc) {
      const uint64_t result = form == Popc  ? barrier.count
                              : form == And ? barrier.count == barrier.threads
                                            : barrier.count != 0;
      uint64_t* to = warp.lanes(i[0].reg);
      each(warp, [&](int lane) { to[lane] = result; });
    }
  }
  barrier = {};
}

bool is_complete(const Block& block, const Barrier& barrier) {
  return barrier.arrived && barrier.arrived >= (barrier.expected ? barrier.expected : live_warps(block));
}

void arrive(Warp& warp, const Instruction& i) {
  if (!warp.gather(warp.live)) return;
  Block& block = warp.block;
  const int form = i.data[0], first = i.data[1], lane = __builtin_ctz(warp.active);
  const uint64_t number = uint32_t(warp.values(i[first])[lane]);
  if (number >= block.barriers.size()) return fault(warp, lane, "barrier", "there are 16 barriers in a block");
  int expected = 0;
  if (i.data[2]) {
    const uint32_t threads = warp.values(i[first + 1])[lane];
    if (!threads || threads % kLanes || threads / kLanes > block.warps.size())
      return fault(warp, lane, "barrier", "a barrier for " + std::to_string(threads) + " threads");
    expected = threads / kLanes;
  }
  Barrier& barrier = block.barriers[number];
  if (barrier.arrived && barrier.expected != expected)
    fault(warp, lane, "barrier", "warps that arrive name different numbers of threads");
  if (barrier.arrivals >> warp.index & 1) fault(warp, lane, "barrier", "a warp arrives twice");
  barrier.expected = expected;
  ++barrier.arrived;
  barrier.arrivals |= 1u << warp.index;
  if (block.launch.checks()) block.shadow.arrive(barrier.clock, warp.index);
  if (form >= Popc) {
    barrier.count += __builtin_popcount(warp.bits(i[i.operands.size() - 1]) & warp.active);
    barrier.threads += __builtin_popcount(warp.active);
  }
  if (form != Arrive) {
    barrier.waiting |= 1u << warp.index;
    warp.state = Warp::AtBarrier;
    warp.barrier = number;
  }
  if (is_complete(block, barrier)) complete(block, number);
}

// bar{.cta}.sync a{, b}; bar.arrive a, b; bar.red.popc.u32 d, a{, b}, p; bar.red.and.pred p, a{, b}, q.
Run decode_barrier(Instruction& i) {
  i.counted = Class::Barrier;
  Suffixes suffixes{i};
  if (i.name == "bar" && suffixes.take("warp")) return nullptr;
  suffixes.take("cta");
  const int form = suffixes.take_one({"sync", "arrive", "red"});
  size_t most = 2;
  i.data[0] = form;
  i.data[1] = 0;
  if (form < 0) return nullptr;
  if (i.name == "barrier") suffixes.take("aligned");
  if (form == 2) {
    const int reduction = suffixes.take_one({"popc", "and", "or"});
    if (reduction < 0 || !suffixes.take(reduction ? "pred" : "u32") || i.operands.empty() || !is_register(i[0]))
      return nullptr;
    if (i.name == "barrier") suffixes.take("aligned");
    i.data[0] = Popc + reduction;
    i.data[1] = 1;
    most = 4;
  }
  const size_t count = i.operands.size(), least = most / 2 + (most == 4);
  if (!suffixes.done() || count < least || count > most || (form == Arrive && count != 2)) return nullptr;
  for (const Operand& operand : i.operands)
    if (!is_value(operand)) return nullptr;
  i.data[2] = count == most;
  return arrive;
}

void sync_warp(Warp& warp, const Instruction& i) {
  uint32_t wanted = 0;
  const uint64_t* named = warp.values(i[0]);
  each(warp, [&](int lane) { wanted |= uint32_t(named[lane]); });
  if (!warp.gather(wanted)) return;
  if (warp.block.launch.checks()) warp.block.shadow.sync_warp(warp.index);
}

Run decode_warp_barrier(Instruction& i) {
  i.counted = Class::Barrier;
  Suffixes suffixes{i};
  if (!suffixes.take("warp") || !suffixes.take("sync") || !suffixes.done()) return nullptr;
  return i.operands.size() == 1 && is_value(i[0]) ? sync_warp : nullptr;
}

void nothing(Warp&, const Instruction&) {}

// Accesses are executed in the order of the program, so that a fence has nothing to do.
Run decode_fence(Instruction& i) {
  i.counted = Class::Barrier;
  for (const std::string& suffix : i.suffixes)
    if (suffix != "gl" && suffix != "cta" && suffix != "sys" && suffix != "gpu" && suffix != "sc" &&
        suffix != "acq_rel" && suffix != "acquire" && suffix != "release" && suffix != "cluster" && suffix != "level")
      return nullptr;
  return i.operands.empty() && !i.suffixes.empty() ? nothing : nullptr;
}

// Dependent launches (9.7.13.13): launches follow each other here.
Run decode_dependence(Instruction& i) {
  i.counted = Class::Control;
  const bool known = i.suffixes.size() == 1 && (i.has("launch_dependents") || i.has("wait"));
  return known && i.operands.empty() ? nothing : nullptr;
}

const Family barriers({"bar", "barrier"}, decode_barrier);
const Family warp_barriers({"bar"}, decode_warp_barrier);
const Family fences({"membar", "fence"}, decode_fence);
const Family dependences({"griddepcontrol"}, decode_dependence);

}  // namespace

void finish(Block& block) {
  for (size_t number = 0; number < block.barriers.size(); ++number) {
    const Barrier& barrier = block.barriers[number];
    if (is_complete(block, barrier) && live_warps(block)) complete(block, number);
  }
}

}  // namespace ptx
