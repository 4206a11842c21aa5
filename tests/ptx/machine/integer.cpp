// Integer arithmetic (PTX ISA, section 9.7.1).
#include <algorithm>

#include "family.h"
#include "lanes.h"

namespace ptx {
namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
struct Wide;
template <>
struct Wide<uint16_t> {
  using Type = uint32_t;
};
template <>
struct Wide<int16_t> {
  using Type = int32_t;
};
template <>
struct Wide<uint32_t> {
  using Type = uint64_t;
};
template <>
struct Wide<int32_t> {
  using Type = int64_t;
};
template <>
struct Wide<uint64_t> {
  using Type = unsigned __int128;
};
template <>
struct Wide<int64_t> {
  using Type = __int128;
};

// The arithmetic is that of the unsigned type, in 64 bits: it wraps.
template <class T>
T wrap(uint64_t value) {
  return static_cast<T>(value);
}

PTX_OPERATION(Add, wrap<T>(uint64_t(a) + uint64_t(b)), T a, T b);
PTX_OPERATION(Sub, wrap<T>(uint64_t(a) - uint64_t(b)), T a, T b);
PTX_OPERATION(MulLow, wrap<T>(uint64_t(a) * uint64_t(b)), T a, T b);
PTX_OPERATION(MadLow, wrap<T>(uint64_t(a) * uint64_t(b) + uint64_t(c)), T a, T b, T c);
PTX_OPERATION(MulHigh, static_cast<T>(static_cast<typename Wide<T>::Type>(a) * b >> (8 * sizeof(T))), T a, T b);
PTX_OPERATION(MadHigh, wrap<T>(uint64_t(MulHigh::apply(a, b)) + uint64_t(c)), T a, T b, T c);
PTX_OPERATION(Min, std::min(a, b), T a, T b);
PTX_OPERATION(Max, std::max(a, b), T a, T b);
// With .relu: what is negative becomes 0.
PTX_OPERATION(MinRelu, std::max(std::min(a, b), T{0}), T a, T b);
PTX_OPERATION(MaxRelu, std::max(std::max(a, b), T{0}), T a, T b);
PTX_OPERATION(Neg, wrap<T>(-uint64_t(a)), T a);
PTX_OPERATION(Abs, wrap<T>(a < 0 ? -uint64_t(a) : uint64_t(a)), T a);
// Unspecified where the divisor is zero: all ones, as GPUs give.
PTX_OPERATION(Div,
              b == 0                                           ? static_cast<T>(-1)
              : b == static_cast<T>(-1) && std::is_signed_v<T> ? Neg::apply(a)
                                                               : static_cast<T>(a / b),
              T a, T b);
PTX_OPERATION(Rem,
              b == 0                                           ? a
              : b == static_cast<T>(-1) && std::is_signed_v<T> ? T{0}
                                                               : static_cast<T>(a % b),
              T a, T b);

// Both halves of 32 bits, of type Half.
template <class Op, class Half>
struct Pair {
  static uint32_t apply(uint32_t a, uint32_t b) {
    const Half low = Op::apply(static_cast<Half>(a), static_cast<Half>(b));
    const Half high = Op::apply(static_cast<Half>(a >> 16), static_cast<Half>(b >> 16));
    return uint32_t{static_cast<uint16_t>(high)} << 16 | static_cast<uint16_t>(low);
  }
};

// mul.wide, mad.wide: the operands are narrower than the result.
template <class T>
void mul_wide(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg), [](uint64_t a, uint64_t b) { return uint64_t(as<T>(a)) * uint64_t(as<T>(b)); },
      warp.values(i[1]), warp.values(i[2]));
}
template <class T>
void mad_wide(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a, uint64_t b, uint64_t c) { return uint64_t(as<T>(a)) * uint64_t(as<T>(b)) + c; }, warp.values(i[1]),
      warp.values(i[2]), warp.values(i[3]));
}

template <class Op, int sources>
Run choose(int type) {
  switch (type) {
    case 0: return run_lanes<Op, uint16_t, uint16_t, sources>;
    case 1: return run_lanes<Op, int16_t, int16_t, sources>;
    case 2: return run_lanes<Op, uint32_t, uint32_t, sources>;
    case 3: return run_lanes<Op, int32_t, int32_t, sources>;
    case 4: return run_lanes<Op, uint64_t, uint64_t, sources>;
    case 5: return run_lanes<Op, int64_t, int64_t, sources>;
    default: return nullptr;
  }
}

Run choose_wide(int type, bool mad) {
  switch (type) {
    case 0: return mad ? mad_wide<uint16_t> : mul_wide<uint16_t>;
    case 1: return mad ? mad_wide<int16_t> : mul_wide<int16_t>;
    case 2: return mad ? mad_wide<uint32_t> : mul_wide<uint32_t>;
    case 3: return mad ? mad_wide<int32_t> : mul_wide<int32_t>;
    default: return nullptr;
  }
}

int take_type(Suffixes& suffixes) { return suffixes.take_one({"u16", "s16", "u32", "s32", "u64", "s64"}); }

template <class Op>
Run choose_pair(bool is_signed) {
  return is_signed ? run_lanes<Pair<Op, int16_t>, uint32_t, uint32_t, 2>
                   : run_lanes<Pair<Op, uint16_t>, uint32_t, uint32_t, 2>;
}

// add.u16x2, min{.relu}.s16x2 and the like
Run decode_newer(Instruction& i) {
  Suffixes suffixes{i};
  const bool relu = suffixes.take("relu");
  const int type = suffixes.take_one({"u16x2", "s16x2"});
  if (type < 0 || !suffixes.done() || !is_plain(i, 3)) return nullptr;
  const bool min = i.name == "min";
  if (i.name == "add") return relu ? nullptr : choose_pair<Add>(type);
  if (relu) return !type ? nullptr : min ? choose_pair<MinRelu>(true) : choose_pair<MaxRelu>(true);
  return min ? choose_pair<Min>(type) : choose_pair<Max>(type);
}

Run decode_two(Instruction& i) {
  Suffixes suffixes{i};
  const bool extreme = i.name == "min" || i.name == "max";
  const bool relu = extreme && suffixes.take("relu");
  const int type = take_type(suffixes);
  if (!suffixes.done() || !is_plain(i, 3)) return nullptr;
  if (i.name == "add") return choose<Add, 2>(type);
  if (i.name == "sub") return choose<Sub, 2>(type);
  if (i.name == "div") return choose<Div, 2>(type);
  if (i.name == "rem") return choose<Rem, 2>(type);
  if (relu && type != 3) return nullptr;  // .s32 and .s16x2 have it
  if (relu) return i.name == "min" ? choose<MinRelu, 2>(type) : choose<MaxRelu, 2>(type);
  return i.name == "min" ? choose<Min, 2>(type) : choose<Max, 2>(type);
}

Run decode_product(Instruction& i) {
  Suffixes suffixes{i};
  const int part = suffixes.take_one({"lo", "hi", "wide"});
  const int type = take_type(suffixes);
  const bool mad = i.name == "mad";
  if (!suffixes.done() || !is_plain(i, mad ? 4 : 3)) return nullptr;
  if (part == 0) return mad ? choose<MadLow, 3>(type) : choose<MulLow, 2>(type);
  if (part == 1) return mad ? choose<MadHigh, 3>(type) : choose<MulHigh, 2>(type);
  return part == 2 ? choose_wide(type, mad) : nullptr;
}

Run decode_one(Instruction& i) {
  Suffixes suffixes{i};
  const int type = take_type(suffixes);
  if (!suffixes.done() || !is_plain(i, 2)) return nullptr;
  return i.name == "neg" ? choose<Neg, 1>(type) : choose<Abs, 1>(type);
}

// dp4a.atype.btype d, a, b, c.
template <class A, class B>
void dot_bytes(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a, uint64_t b, uint64_t c) {
        for (int k = 0; k < 32; k += 8)
          c += static_cast<int64_t>(static_cast<A>(a >> k)) * static_cast<int64_t>(static_cast<B>(b >> k));
        return c;
      },
      warp.values(i[1]), warp.values(i[2]), warp.values(i[3]));
}

Run decode_dot(Instruction& i) {
  Suffixes suffixes{i};
  const int a = suffixes.take_one({"u32", "s32"}), b = suffixes.take_one({"u32", "s32"});
  if (a < 0 || b < 0 || !suffixes.done() || !is_plain(i, 4)) return nullptr;
  if (a) return b ? dot_bytes<int8_t, int8_t> : dot_bytes<int8_t, uint8_t>;
  return b ? dot_bytes<uint8_t, int8_t> : dot_bytes<uint8_t, uint8_t>;
}

const Family two({"add", "sub", "div", "rem", "min", "max"}, decode_two);
const Family newer({"add", "min", "max"}, decode_newer);
const Family products({"mul", "mad"}, decode_product);
const Family one({"neg", "abs"}, decode_one);
const Family dot({"dp4a"}, decode_dot);

}  // namespace
}  // namespace ptx
