// Arithmetic of .f16, .bf16 and their pairs (PTX ISA, sections 9.7.4 and 9.7.5). Sums and products of two such numbers
// in float, and of three in double rounded to odd, have enough bits for one more rounding to be that of the exact
// value.
#include "family.h"
#include "lanes.h"
#include "rounding.h"

namespace ptx {
namespace {

struct Half {
  static float from(uint16_t bits) { return from_half(bits); }
  static uint16_t to(float x) { return half_of(x); }
  static uint16_t to(double x) { return to_half(x); }
  static uint16_t flushed(uint16_t bits) { return bits & 0x7c00 ? bits : bits & 0x8000; }
};
struct Bfloat {
  static float from(uint16_t bits) { return from_bfloat(bits); }
  static uint16_t to(float x) { return bfloat_of(x); }
  static uint16_t to(double x) { return to_bfloat(x); }
  static uint16_t flushed(uint16_t bits) { return bits & 0x7f80 ? bits : bits & 0x8000; }
};

struct Add {
  static float apply(float a, float b) { return a + b; }
};
struct Sub {
  static float apply(float a, float b) { return a - b; }
};
struct Mul {
  static float apply(float a, float b) { return a * b; }
};
struct Fma {
  static double apply(double a, double b, double c) { return add_to_odd(a * b, c); }
};
struct Min {
  static float apply(float a, float b) { return a < b || (a == b && std::signbit(a)) || b != b ? a : b; }
};
struct Max {
  static float apply(float a, float b) { return a > b || (a == b && !std::signbit(a)) || b != b ? a : b; }
};
template <class Op>
struct Nan {
  static float apply(float a, float b) { return a != a ? a : b != b ? b : Op::apply(a, b); }
};
template <class Op>
struct Relu {
  template <class... T>
  static auto apply(T... sources) {
    const auto result = Op::apply(sources...);
    return result < 0 ? decltype(result){0} : result;
  }
};
template <class Op>
struct Saturated {
  template <class... T>
  static auto apply(T... sources) {
    return saturate(Op::apply(sources...));
  }
};

template <class Format, class Op, bool ftz>
struct One {
  template <class... T>
  static uint16_t apply(T... sources) {
    if (!ftz) return Format::to(Op::apply(Format::from(uint16_t(sources))...));
    return Format::flushed(Format::to(Op::apply(Format::from(Format::flushed(uint16_t(sources)))...)));
  }
};
template <class Format, class Op, bool ftz>
struct Two {
  template <class... T>
  static uint32_t apply(T... sources) {
    return One<Format, Op, ftz>::apply(sources...) | uint32_t{One<Format, Op, ftz>::apply((sources >> 16)...)} << 16;
  }
};

template <class Format, class Op, int sources, bool ftz>
Run choose_count(bool pair) {
  return pair ? run_lanes<Two<Format, Op, ftz>, uint32_t, uint32_t, sources>
              : run_lanes<One<Format, Op, ftz>, uint16_t, uint16_t, sources>;
}

template <class Op, int sources>
Run choose(int type, bool ftz) {
  if (type < 0 || (ftz && type > 1)) return nullptr;
  if (ftz) return choose_count<Half, Op, sources, true>(type & 1);
  return type > 1 ? choose_count<Bfloat, Op, sources, false>(type & 1)
                  : choose_count<Half, Op, sources, false>(type & 1);
}

template <class Op, int sources>
Run choose_clamp(int type, bool ftz, bool sat, bool relu) {
  if (sat && relu) return nullptr;
  if (sat) return choose<Saturated<Op>, sources>(type, ftz);
  return relu ? choose<Relu<Op>, sources>(type, ftz) : choose<Op, sources>(type, ftz);
}

Run decode(Instruction& i) {
  i.counted = Class::Half;
  Suffixes suffixes{i};
  const bool rounded = suffixes.take("rn"), ftz = suffixes.take("ftz"), nan = suffixes.take("NaN");
  const bool sat = suffixes.take("sat"), relu = suffixes.take("relu");
  const int type = suffixes.take_one({"f16", "f16x2", "bf16", "bf16x2"});
  const bool fma = i.name == "fma";
  if (type < 0 || !suffixes.done() || !is_plain(i, fma ? 4 : 3) || rounded < fma) return nullptr;
  if (i.name == "min" || i.name == "max") {
    const bool min = i.name == "min";
    if (sat || relu || rounded) return nullptr;
    if (nan) return min ? choose<Nan<Min>, 2>(type, ftz) : choose<Nan<Max>, 2>(type, ftz);
    return min ? choose<Min, 2>(type, ftz) : choose<Max, 2>(type, ftz);
  }
  if (nan) return nullptr;
  if (fma) return choose_clamp<Fma, 3>(type, ftz, sat, relu);
  if (i.name == "add") return choose_clamp<Add, 2>(type, ftz, sat, relu);
  if (i.name == "sub") return choose_clamp<Sub, 2>(type, ftz, sat, relu);
  return choose_clamp<Mul, 2>(type, ftz, sat, relu);
}

// neg, abs: of the sign bits.
template <uint32_t bits, bool invert>
void sign(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg), [](uint64_t a) { return invert ? a ^ bits : a & ~uint64_t{bits}; },
      warp.values(i[1]));
}

Run decode_sign(Instruction& i) {
  i.counted = Class::Half;
  Suffixes suffixes{i};
  const int type = suffixes.take_one({"f16", "f16x2", "bf16", "bf16x2"});
  if (type < 0 || !suffixes.done() || !is_plain(i, 2)) return nullptr;
  if (i.name == "neg") return type & 1 ? sign<0x80008000, true> : sign<0x8000, true>;
  return type & 1 ? sign<0x80008000, false> : sign<0x8000, false>;
}

const Family arithmetic({"add", "sub", "mul", "fma", "min", "max"}, decode);
const Family signs({"neg", "abs"}, decode_sign);

}  // namespace
}  // namespace ptx
