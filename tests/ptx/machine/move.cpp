// mov, cvta, isspacep (PTX ISA, section 9.7.9).
#include "family.h"
#include "lanes.h"

namespace ptx {
namespace {

void move(Warp& warp, const Instruction& i) {
  map(warp, warp.lanes(i[0].reg), [](uint64_t a) { return a; }, warp.values(i[1]));
}

void move_128(Warp& warp, const Instruction& i) {
  for (int half = 0; half < 2; ++half)
    map(warp, warp.lanes(i[0].reg + half), [](uint64_t a) { return a; }, warp.lanes(i[1].reg + half));
}

// mov.b64 d, {a, b}: the first is the lowest.
void pack(Warp& warp, const Instruction& i) {
  const int width = i.data[0], count = i[1].parts.size();
  const uint64_t mask = (uint64_t{1} << width) - 1;
  alignas(64) uint64_t packed[kLanes] = {};
  for (int k = 0; k < count; ++k) {
    const uint64_t* from = warp.values(i[1].parts[k]);
    for (int lane = 0; lane < kLanes; ++lane) packed[lane] |= (from[lane] & mask) << (k * width);
  }
  map(warp, warp.lanes(i[0].reg), [](uint64_t a) { return a; }, packed);
}

// mov.b64 {a, b}, d.
void unpack(Warp& warp, const Instruction& i) {
  const int width = i.data[0], count = i[0].parts.size();
  const uint64_t* from = warp.values(i[1]);
  alignas(64) uint64_t packed[kLanes];
  std::memcpy(packed, from, sizeof packed);  // a part may be the register itself
  const uint64_t mask = (uint64_t{1} << width) - 1;
  for (int k = 0; k < count; ++k) {
    if (i[0].parts[k].kind == Operand::None) continue;
    const int shift = k * width;
    map(warp, warp.lanes(i[0].parts[k].reg), [=](uint64_t a) { return a >> shift & mask; }, packed);
  }
}

// Two registers of 64 bits in .b128.
void pack_128(Warp& warp, const Instruction& i) {
  alignas(64) uint64_t parts[2][kLanes];
  for (int half = 0; half < 2; ++half) std::memcpy(parts[half], warp.values(i[1].parts[half]), sizeof parts[half]);
  for (int half = 0; half < 2; ++half)
    map(warp, warp.lanes(i[0].reg + half), [](uint64_t a) { return a; }, parts[half]);
}

void unpack_128(Warp& warp, const Instruction& i) {
  for (int half = 0; half < 2; ++half) {
    const Operand& to = i[0].parts[half];
    if (to.kind == Operand::None) continue;
    map(warp, warp.lanes(to.reg), [](uint64_t a) { return a; }, warp.lanes(i[1].reg + half));
  }
}

bool is_tuple(const Operand& operand, size_t count, bool source) {
  if (operand.kind != Operand::Vector || operand.parts.size() != count) return false;
  for (const Operand& part : operand.parts)
    if (!(source ? is_value(part) : is_register(part) || part.kind == Operand::None)) return false;
  return true;
}

Run decode_move(Instruction& i) {
  i.counted = Class::Move;
  Suffixes suffixes{i};
  const int type =
      suffixes.take_one({"pred", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64", "b128"});
  if (type < 0 || !suffixes.done() || i.operands.size() != 2) return nullptr;
  if (type == 12) {
    if (is_register(i[0]) && is_register(i[1])) return move_128;
    if (is_register(i[0]) && is_tuple(i[1], 2, true)) return pack_128;
    return is_tuple(i[0], 2, false) && is_register(i[1]) ? unpack_128 : nullptr;
  }
  if (is_plain(i, 2)) return i[1].negated ? nullptr : move;
  const int bits = type < 4 ? 16 : type < 8 ? 32 : 64;
  for (const size_t count : {2, 4, 8}) {
    i.data[0] = bits / count;
    if (is_register(i[0]) && is_tuple(i[1], count, true)) return pack;
    if (is_tuple(i[0], count, false) && is_value(i[1])) return unpack;
  }
  return nullptr;
}

// cvta{.to}.space.size d, a: between an address in a window and a generic one.
template <bool to_space>
void convert(Warp& warp, const Instruction& i) {
  const uint64_t window = i.data[0];
  map(
      warp, warp.lanes(i[0].reg),
      [window](uint64_t a) {
        if (!window) return a;
        return to_space ? a & ~kWindowMask : (a & 0xffffffffu) | window;
      },
      warp.values(i[1]));
}

// The windows are beyond 32 bits.
Run decode_convert(Instruction& i) {
  Suffixes suffixes{i};
  const bool to = suffixes.take("to");
  const int space = suffixes.take_one({"global", "const", "shared", "shared::cta", "local"});
  if (space < 0 || !suffixes.take("u64") || !suffixes.done() || !is_plain(i, 2)) return nullptr;
  i.data[0] = space < 2 ? 0 : space == 4 ? kLocalWindow : kSharedWindow;
  return to ? convert<true> : convert<false>;
}

// isspacep.space p, a
void is_in(Warp& warp, const Instruction& i) {
  const uint64_t window = i.data[0];
  map(
      warp, warp.lanes(i[0].reg), [window](uint64_t a) { return uint64_t{(a & kWindowMask) == window}; },
      warp.values(i[1]));
}

Run decode_is_in(Instruction& i) {
  Suffixes suffixes{i};
  const int space = suffixes.take_one({"global", "shared", "shared::cta", "local"});
  if (space < 0 || !suffixes.done() || !is_plain(i, 2)) return nullptr;
  i.data[0] = space == 0 ? 0 : space == 3 ? kLocalWindow : kSharedWindow;
  return is_in;
}

const Family moves({"mov"}, decode_move);
const Family conversions({"cvta"}, decode_convert);
const Family spaces({"isspacep"}, decode_is_in);

}  // namespace
}  // namespace ptx
