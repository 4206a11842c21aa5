// shfl.sync, vote.sync, match.sync, redux.sync, elect.sync (PTX ISA, sections 9.7.9.6 and 9.7.13.8 to 9.7.13.12).
#include <algorithm>
#include <cmath>

#include "block.h"
#include "family.h"
#include "lanes.h"

namespace ptx {
namespace {

// The lanes that the executing lanes name, or false if some are elsewhere.
bool named(Warp& warp, const Operand& mask, uint32_t& lanes) {
  const uint64_t* values = warp.values(mask);
  lanes = 0;
  each(warp, [&](int lane) { lanes |= uint32_t(values[lane]); });
  if (!warp.gather(lanes)) return false;
  each(warp, [&](int lane) {
    if (!(uint32_t(values[lane]) >> lane & 1)) fault(warp, lane, "divergence", "a lane does not name itself");
  });
  return true;
}

// The lane that `lane` reads, or -1 outside its segment.
template <int mode>  // up, down, bfly, idx
int source(int lane, uint32_t b, uint32_t c) {
  const int segments = c >> 8 & 31, clamp = c & 31, amount = b & 31;
  const int most = (lane & segments) | (clamp & ~segments), least = lane & segments;
  if (mode == 0) return lane - amount >= most ? lane - amount : -1;
  const int from = mode == 1 ? lane + amount : mode == 2 ? lane ^ amount : least | (amount & ~segments);
  return from <= most ? from : -1;
}

template <int mode>
void shuffle(Warp& warp, const Instruction& i) {
  uint32_t lanes;
  if (!named(warp, i[4], lanes)) return;
  alignas(64) uint64_t copy[kLanes];
  std::memcpy(copy, warp.values(i[1]), sizeof copy);
  const uint64_t *b = warp.values(i[2]), *c = warp.values(i[3]);
  uint64_t* d = i[0].kind == Operand::Register ? warp.lanes(i[0].reg) : nullptr;
  uint32_t inside = 0;
  for (uint32_t left = warp.active; left; left &= left - 1) {
    const int lane = __builtin_ctz(left), from = source<mode>(lane, uint32_t(b[lane]), uint32_t(c[lane]));
    inside |= uint32_t{from >= 0} << lane;
    if (from >= 0 && !(warp.active >> from & 1))
      fault(warp, lane, "shuffle", "reads lane " + std::to_string(from) + ", which does not take part");
    if (d) d[lane] = copy[from < 0 ? lane : from];
  }
  if (!i[0].parts.empty()) warp.set_bits(i[0].parts[0], inside);
}

// shfl.sync.mode.b32 d|p, a, b, c, mask
Run decode_shuffle(Instruction& i) {
  i.counted = Class::Shuffle;
  Suffixes suffixes{i};
  if (!suffixes.take("sync")) return nullptr;
  const int mode = suffixes.take_one({"up", "down", "bfly", "idx"});
  if (!suffixes.take("b32") || !suffixes.done() || i.operands.size() != 5) return nullptr;
  for (int k = 1; k < 5; ++k)
    if (!is_value(i[k])) return nullptr;
  switch (mode) {
    case 0: return shuffle<0>;
    case 1: return shuffle<1>;
    case 2: return shuffle<2>;
    case 3: return shuffle<3>;
    default: return nullptr;
  }
}

// vote.sync.mode.pred p, q, mask; vote.sync.ballot.b32 d, q, mask
void vote(Warp& warp, const Instruction& i) {
  uint32_t lanes;
  if (!named(warp, i[2], lanes)) return;
  const uint32_t bits = warp.bits(i[1]) & warp.active;
  const uint64_t* masks = warp.values(i[2]);
  uint64_t* d = warp.lanes(i[0].reg);
  const int mode = i.data[0];
  each(warp, [&](int lane) {
    const uint32_t mask = uint32_t(masks[lane]) & warp.active, yes = bits & mask;
    d[lane] = mode == 0 ? yes == mask : mode == 1 ? yes != 0 : mode == 2 ? !yes || yes == mask : uint64_t{yes};
  });
}

Run decode_vote(Instruction& i) {
  i.counted = Class::Shuffle;
  Suffixes suffixes{i};
  if (!suffixes.take("sync")) return nullptr;
  const int mode = suffixes.take_one({"all", "any", "uni", "ballot"});
  if (mode < 0 || !suffixes.take(mode == 3 ? "b32" : "pred") || !suffixes.done() || !is_plain(i, 3)) return nullptr;
  i.data[0] = mode;
  return vote;
}

// match.any.sync.type d, a, mask; match.all.sync.type d|p, a, mask
template <class T, bool all>
void match(Warp& warp, const Instruction& i) {
  uint32_t lanes;
  if (!named(warp, i[2], lanes)) return;
  alignas(64) uint64_t a[kLanes];
  std::memcpy(a, warp.values(i[1]), sizeof a);
  const uint64_t* masks = warp.values(i[2]);
  uint64_t* d = warp.lanes(i[0].reg);
  uint32_t same_all = 0;
  each(warp, [&](int lane) {
    const uint32_t mask = uint32_t(masks[lane]) & warp.active;
    uint32_t same = 0;
    for (int other = 0; other < kLanes; ++other) same |= uint32_t{as<T>(a[other]) == as<T>(a[lane])} << other;
    same &= mask;
    same_all |= uint32_t{same == mask} << lane;
    d[lane] = all && same != mask ? 0 : same;
  });
  if (all && !i[0].parts.empty()) warp.set_bits(i[0].parts[0], same_all);
}

Run decode_match(Instruction& i) {
  i.counted = Class::Shuffle;
  Suffixes suffixes{i};
  const int mode = suffixes.take_one({"any", "all"});
  if (mode < 0 || !suffixes.take("sync")) return nullptr;
  const int type = suffixes.take_one({"b32", "b64"});
  if (type < 0 || !suffixes.done() || !is_plain(i, 3)) return nullptr;
  if (mode) return type ? match<uint64_t, true> : match<uint32_t, true>;
  return type ? match<uint64_t, false> : match<uint32_t, false>;
}

// redux.sync.op.type d, a, mask; of .f32 a NaN is left out, unless it says .NaN
template <class T>
void reduce(Warp& warp, const Instruction& i) {
  uint32_t lanes;
  if (!named(warp, i[2], lanes)) return;
  const int op = i.data[0];
  const bool absolute = i.data[1], nan = i.data[2];
  const uint64_t* a = warp.values(i[1]);
  bool first = true;
  T result{};
  each(warp, [&](int lane) {
    T x = as<T>(a[lane]);
    if constexpr (std::is_floating_point_v<T>) {
      if (absolute) x = std::abs(x);
      if (first || (nan ? x != x : result != result)) {
        result = x;
      } else if (nan ? result == result : x == x) {
        result = op == 1 ? std::min(result, x) : std::max(result, x);
      }
    } else {
      switch (first ? 6 : op) {
        case 0: result = T(uint32_t(result) + uint32_t(x)); break;
        case 1: result = std::min(result, x); break;
        case 2: result = std::max(result, x); break;
        case 3: result &= x; break;
        case 4: result |= x; break;
        case 5: result ^= x; break;
        default: result = x;
      }
    }
    first = false;
  });
  uint64_t* d = warp.lanes(i[0].reg);
  each(warp, [&](int lane) { d[lane] = bits_of(result); });
}

Run decode_reduce(Instruction& i) {
  i.counted = Class::Shuffle;
  Suffixes suffixes{i};
  if (!suffixes.take("sync")) return nullptr;
  const int op = suffixes.take_one({"add", "min", "max", "and", "or", "xor"});
  i.data[0] = op;
  i.data[1] = suffixes.take("abs");
  i.data[2] = suffixes.take("NaN");
  const int type = suffixes.take_one({"u32", "s32", "b32", "f32"});
  if (op < 0 || type < 0 || !suffixes.done() || !is_plain(i, 3)) return nullptr;
  if ((op >= 3) != (type == 2) || (type == 3 && op != 1 && op != 2)) return nullptr;
  if ((i.data[1] || i.data[2]) && type != 3) return nullptr;
  return type == 3 ? reduce<float> : type == 1 ? reduce<int32_t> : reduce<uint32_t>;
}

// elect.sync d|p, mask: the lowest lane is chosen.
void elect(Warp& warp, const Instruction& i) {
  uint32_t lanes;
  if (!named(warp, i[1], lanes)) return;
  const int leader = __builtin_ctz(warp.active);
  if (i[0].kind == Operand::Register) {
    uint64_t* d = warp.lanes(i[0].reg);
    each(warp, [&](int lane) { d[lane] = leader; });
  }
  warp.set_bits(i[0].parts[0], 1u << leader);
}

Run decode_elect(Instruction& i) {
  i.counted = Class::Shuffle;
  Suffixes suffixes{i};
  const bool known = suffixes.take("sync") && suffixes.done() && i.operands.size() == 2 && i[0].parts.size() == 1;
  return known && is_value(i[1]) ? elect : nullptr;
}

const Family shuffles({"shfl"}, decode_shuffle);
const Family votes({"vote"}, decode_vote);
const Family matches({"match"}, decode_match);
const Family reductions({"redux"}, decode_reduce);
const Family elections({"elect"}, decode_elect);

}  // namespace
}  // namespace ptx
