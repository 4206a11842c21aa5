// Bits: and, or, xor, not, cnot, lop3, shl, shr, shf, popc, clz, bfind, brev, bfe, bfi, prmt (PTX ISA, sections 9.7.1,
// 9.7.8 and 9.7.9.7).
#include <algorithm>

#include "family.h"
#include "lanes.h"

namespace ptx {
namespace {

PTX_OPERATION(And, static_cast<T>(a& b), T a, T b);
PTX_OPERATION(Or, static_cast<T>(a | b), T a, T b);
PTX_OPERATION(Xor, static_cast<T>(a ^ b), T a, T b);
PTX_OPERATION(Not, static_cast<T>(~a), T a);
PTX_OPERATION(NotPredicate, static_cast<T>(~a & 1), T a);
PTX_OPERATION(IsZero, static_cast<T>(a == 0), T a);
PTX_OPERATION(Popc, static_cast<uint32_t>(__builtin_popcountll(a)), T a);
PTX_OPERATION(Clz, static_cast<uint32_t>(a ? __builtin_clzll(a) - (64 - 8 * int(sizeof(T))) : 8 * int(sizeof(T))), T a);

template <class T>
T reverse(T a) {
  T result = 0;
  for (unsigned k = 0; k < 8 * sizeof(T); ++k) result |= (a >> k & 1) << (8 * sizeof(T) - 1 - k);
  return result;
}
PTX_OPERATION(Reverse, reverse(a), T a);

// The place of the highest bit that is not the sign's, or all ones.
template <bool shift, class T>
uint32_t highest(T a) {
  const auto bits = static_cast<std::make_unsigned_t<T>>(a < 0 ? ~a : a);
  if (!bits) return ~0u;
  const uint32_t place = 63 - __builtin_clzll(bits);
  return shift ? 8 * sizeof(T) - 1 - place : place;
}
PTX_OPERATION(Highest, (highest<false, T>(a)), T a);
PTX_OPERATION(HighestShift, (highest<true, T>(a)), T a);

template <class Op, int sources, class R16 = uint16_t, class R32 = uint32_t, class R64 = uint64_t>
Run choose(int type) {
  switch (type) {
    case 0: return run_lanes<Op, R16, uint16_t, sources>;
    case 1: return run_lanes<Op, R32, uint32_t, sources>;
    case 2: return run_lanes<Op, R64, uint64_t, sources>;
    default: return nullptr;
  }
}

Run decode_logic(Instruction& i) {
  Suffixes suffixes{i};
  const bool one = i.name == "not" || i.name == "cnot";
  if (!is_plain(i, one ? 2 : 3)) return nullptr;
  if (i.suffixes.size() == 1 && suffixes.take("pred")) {
    if (i.name == "and") return run_lanes<And, uint64_t, uint64_t, 2>;
    if (i.name == "or") return run_lanes<Or, uint64_t, uint64_t, 2>;
    if (i.name == "xor") return run_lanes<Xor, uint64_t, uint64_t, 2>;
    return i.name == "not" ? run_lanes<NotPredicate, uint64_t, uint64_t, 1> : nullptr;
  }
  const int type = suffixes.take_one({"b16", "b32", "b64"});
  if (!suffixes.done()) return nullptr;
  if (i.name == "and") return choose<And, 2>(type);
  if (i.name == "or") return choose<Or, 2>(type);
  if (i.name == "xor") return choose<Xor, 2>(type);
  return i.name == "not" ? choose<Not, 1>(type) : choose<IsZero, 1>(type);
}

Run decode_count(Instruction& i) {
  Suffixes suffixes{i};
  const int type = suffixes.take_one({"b16", "b32", "b64"});
  if (type < 1 || !suffixes.done() || !is_plain(i, 2)) return nullptr;
  if (i.name == "popc") return choose<Popc, 1, uint32_t, uint32_t, uint32_t>(type);
  if (i.name == "clz") return choose<Clz, 1, uint32_t, uint32_t, uint32_t>(type);
  return choose<Reverse, 1>(type);
}

template <class Op>
Run choose_highest(int type) {
  switch (type) {
    case 0: return run_lanes<Op, uint32_t, uint32_t, 1>;
    case 1: return run_lanes<Op, uint32_t, int32_t, 1>;
    case 2: return run_lanes<Op, uint32_t, uint64_t, 1>;
    case 3: return run_lanes<Op, uint32_t, int64_t, 1>;
    default: return nullptr;
  }
}

Run decode_highest(Instruction& i) {
  Suffixes suffixes{i};
  const bool shift = suffixes.take("shiftamt");
  const int type = suffixes.take_one({"u32", "s32", "u64", "s64"});
  if (!suffixes.done() || !is_plain(i, 2)) return nullptr;
  return shift ? choose_highest<HighestShift>(type) : choose_highest<Highest>(type);
}

// Shifts by more than the width give zeros, or the sign. The amount has 32 bits.
template <class T, bool left>
void shift(Warp& warp, const Instruction& i) {
  constexpr uint32_t kWidth = 8 * sizeof(T);
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a, uint64_t b) {
        const uint32_t amount = uint32_t(b);
        if (left) return amount < kWidth ? uint64_t(as<T>(a)) << (amount & 63) : uint64_t{0};
        if (std::is_signed_v<T>) return uint64_t(int64_t(as<T>(a)) >> std::min(amount, 63u));
        return amount < kWidth ? uint64_t(as<T>(a)) >> (amount & 63) : uint64_t{0};
      },
      warp.values(i[1]), warp.values(i[2]));
}

Run decode_shift(Instruction& i) {
  Suffixes suffixes{i};
  const int type = suffixes.take_one({"b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64"});
  if (!suffixes.done() || !is_plain(i, 3)) return nullptr;
  const bool left = i.name == "shl";
  if (left && type > 2) return nullptr;
  switch (type) {
    case 0:
    case 3: return left ? shift<uint16_t, true> : shift<uint16_t, false>;
    case 1:
    case 4: return left ? shift<uint32_t, true> : shift<uint32_t, false>;
    case 2:
    case 5: return left ? shift<uint64_t, true> : shift<uint64_t, false>;
    case 6: return shift<int16_t, false>;
    case 7: return shift<int32_t, false>;
    case 8: return shift<int64_t, false>;
    default: return nullptr;
  }
}

// shf.l.wrap.b32 d, a, b, c: the 64 bits {b, a} shifted; .l keeps the upper half.
template <bool left, bool wraps>
void funnel(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a, uint64_t b, uint64_t c) {
        const uint32_t amount = wraps ? c & 31 : std::min<uint32_t>(uint32_t(c), 32);
        const uint64_t both = b << 32 | (a & 0xffffffffu);
        return left ? (both << amount) >> 32 : (both >> amount) & 0xffffffffu;
      },
      warp.values(i[1]), warp.values(i[2]), warp.values(i[3]));
}

Run decode_funnel(Instruction& i) {
  Suffixes suffixes{i};
  const int side = suffixes.take_one({"l", "r"}), mode = suffixes.take_one({"clamp", "wrap"});
  if (side < 0 || mode < 0 || !suffixes.take("b32") || !suffixes.done() || !is_plain(i, 4)) return nullptr;
  if (side) return mode ? funnel<false, true> : funnel<false, false>;
  return mode ? funnel<true, true> : funnel<true, false>;
}

// bfe.type d, a, position, length: beyond the width, the sign.
template <class T>
void extract(Warp& warp, const Instruction& i) {
  constexpr int kWidth = 8 * sizeof(T);
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a, uint64_t b, uint64_t c) {
        const int position = b & 0xff, length = c & 0xff;
        const uint64_t value = uint64_t(int64_t(as<T>(a)));
        const uint64_t mask = length >= 64 ? ~uint64_t{0} : (uint64_t{1} << length) - 1;
        uint64_t found = position >= kWidth ? 0 : (as<std::make_unsigned_t<T>>(value) >> position) & mask;
        if (std::is_signed_v<T> && length) {
          const int top = std::min(position + length - 1, kWidth - 1);
          const bool negative = value >> top & 1;
          const int known = position >= kWidth ? 0 : std::min(length, kWidth - position);
          if (negative && known < 64) found |= ~uint64_t{0} << known;
        }
        return found;
      },
      warp.values(i[1]), warp.values(i[2]), warp.values(i[3]));
}

Run decode_extract(Instruction& i) {
  Suffixes suffixes{i};
  const int type = suffixes.take_one({"u32", "s32", "u64", "s64"});
  if (!suffixes.done() || !is_plain(i, 4)) return nullptr;
  switch (type) {
    case 0: return extract<uint32_t>;
    case 1: return extract<int32_t>;
    case 2: return extract<uint64_t>;
    case 3: return extract<int64_t>;
    default: return nullptr;
  }
}

// bfi.type f, a, b, position, length: a's low bits into b.
template <class T>
void insert(Warp& warp, const Instruction& i) {
  constexpr int kWidth = 8 * sizeof(T);
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a, uint64_t b, uint64_t c, uint64_t d) {
        const int position = c & 0xff, length = d & 0xff;
        if (position >= kWidth || !length) return b;
        const uint64_t ones = length >= 64 ? ~uint64_t{0} : (uint64_t{1} << length) - 1;
        const uint64_t mask = ones << position;
        return (b & ~mask) | (a << position & mask);
      },
      warp.values(i[1]), warp.values(i[2]), warp.values(i[3]), warp.values(i[4]));
}

Run decode_insert(Instruction& i) {
  Suffixes suffixes{i};
  const int type = suffixes.take_one({"b32", "b64"});
  if (type < 0 || !suffixes.done() || !is_plain(i, 5)) return nullptr;
  return type ? insert<uint64_t> : insert<uint32_t>;
}

// lop3.b32 d, a, b, c, table.
void lop3(Warp& warp, const Instruction& i) {
  const uint64_t* values = warp.values(i[4]);
  uint64_t minterm[8];
  for (int k = 0; k < 8; ++k) minterm[k] = values[0] >> k & 1 ? ~uint64_t{0} : 0;
  map(
      warp, warp.lanes(i[0].reg),
      [&](uint64_t a, uint64_t b, uint64_t c) {
        return (~a & ~b & ~c & minterm[0]) | (~a & ~b & c & minterm[1]) | (~a & b & ~c & minterm[2]) |
               (~a & b & c & minterm[3]) | (a & ~b & ~c & minterm[4]) | (a & ~b & c & minterm[5]) |
               (a & b & ~c & minterm[6]) | (a & b & c & minterm[7]);
      },
      warp.values(i[1]), warp.values(i[2]), warp.values(i[3]));
}

Run decode_lop3(Instruction& i) {
  Suffixes suffixes{i};
  return suffixes.take("b32") && suffixes.done() && is_plain(i, 5) && i[4].constant ? lop3 : nullptr;
}

// prmt.b32 d, a, b, selector: bytes of {b, a}; bit 3 of a choice takes the sign instead.
void permute(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a, uint64_t b, uint64_t c) {
        const uint64_t both = b << 32 | (a & 0xffffffffu);
        uint64_t result = 0;
        for (int k = 0; k < 4; ++k) {
          const uint64_t choice = c >> (4 * k);
          uint64_t byte = both >> (8 * (choice & 7)) & 0xff;
          if (choice & 8) byte = byte & 0x80 ? 0xff : 0;
          result |= byte << (8 * k);
        }
        return result;
      },
      warp.values(i[1]), warp.values(i[2]), warp.values(i[3]));
}

Run decode_permute(Instruction& i) {
  Suffixes suffixes{i};
  return suffixes.take("b32") && suffixes.done() && is_plain(i, 4) ? permute : nullptr;
}

const Family logic({"and", "or", "xor", "not", "cnot"}, decode_logic);
const Family counts({"popc", "clz", "brev"}, decode_count);
const Family highests({"bfind"}, decode_highest);
const Family shifts({"shl", "shr"}, decode_shift);
const Family funnels({"shf"}, decode_funnel);
const Family extracts({"bfe"}, decode_extract);
const Family inserts({"bfi"}, decode_insert);
const Family lop3s({"lop3"}, decode_lop3);
const Family permutes({"prmt"}, decode_permute);

}  // namespace
}  // namespace ptx
