// Arithmetic of .f32, .f64 and .f32x2 (PTX ISA, section 9.7.3), as far as it is exact: what approximates is elsewhere.
#include "family.h"
#include "lanes.h"
#include "rounding.h"

namespace ptx {
namespace {

PTX_OPERATION(Add, a + b, T a, T b);
PTX_OPERATION(Sub, a - b, T a, T b);
PTX_OPERATION(Mul, a* b, T a, T b);
PTX_OPERATION(Div, a / b, T a, T b);
PTX_OPERATION(Reciprocal, T{1} / a, T a);
PTX_OPERATION(Neg, -a, T a);
PTX_OPERATION(CopySign, std::copysign(b, a), T a, T b);
PTX_OPERATION(Abs, std::fabs(a), T a);
PTX_OPERATION(Sqrt, std::sqrt(a), T a);
struct Fma {
  static float apply(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
  static double apply(double a, double b, double c) { return __builtin_fma(a, b, c); }
};

template <class T>
T lesser(T a, T b) {  // -0 < +0
  return a < b || (a == b && std::signbit(a)) || b != b ? a : b;
}
template <class T>
T greater(T a, T b) {
  return a > b || (a == b && !std::signbit(a)) || b != b ? a : b;
}
PTX_OPERATION(Min, lesser(a, b), T a, T b);
PTX_OPERATION(Max, greater(a, b), T a, T b);
PTX_OPERATION(MinNan, (a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : lesser(a, b)), T a, T b);
PTX_OPERATION(MaxNan, (a != a || b != b ? std::numeric_limits<T>::quiet_NaN() : greater(a, b)), T a, T b);

// The options of .f32: subnormal numbers count as zero, the result is put into [0, 1].
template <class Op, bool ftz, bool sat, bool raw = false>
struct WithOptions {
  template <class... T>
  static auto apply(T... sources) {
    auto result = ftz ? Op::apply(flush(sources)...) : Op::apply(sources...);
    if (!raw) result = canonical(result);
    if (ftz) result = flush(result);
    return sat ? saturate(result) : result;
  }
};
template <class Op, bool raw>
struct WithOptions<Op, false, false, raw> {
  template <class... T>
  static auto apply(T... sources) {
    const auto result = Op::apply(sources...);
    return raw ? result : canonical(result);
  }
};

// Other roundings of .f32: the exact result in double, rounded to odd.
struct ExactAdd {
  static double apply(double a, double b) { return add_to_odd(a, b); }
};
struct ExactSub {
  static double apply(double a, double b) { return add_to_odd(a, -b); }
};
struct ExactMul {
  static double apply(double a, double b) { return a * b; }
};
struct ExactFma {
  static double apply(double a, double b, double c) { return add_to_odd(a * b, c); }
};
template <class Op, Round mode>
struct Rounded {
  template <class... T>
  static float apply(T... sources) {
    return round_to_float(Op::apply(sources...), mode);
  }
};

template <class Op, int sources, bool raw = false>
Run choose(bool ftz, bool sat) {
  if (ftz)
    return sat ? run_lanes<WithOptions<Op, true, true, raw>, float, float, sources>
               : run_lanes<WithOptions<Op, true, false, raw>, float, float, sources>;
  return sat ? run_lanes<WithOptions<Op, false, true, raw>, float, float, sources>
             : run_lanes<WithOptions<Op, false, false, raw>, float, float, sources>;
}

template <class Exact, int sources>
Run choose_rounding(Round mode, bool ftz, bool sat) {
  switch (mode) {
    case Round::Zero: return choose<Rounded<Exact, Round::Zero>, sources>(ftz, sat);
    case Round::Down: return choose<Rounded<Exact, Round::Down>, sources>(ftz, sat);
    case Round::Up: return choose<Rounded<Exact, Round::Up>, sources>(ftz, sat);
    default: return nullptr;
  }
}

// Both halves of 64 bits.
template <class Op, class... Bits>
uint64_t on_halves(Bits... bits) {
  return bits_of(Op::apply(as<float>(bits)...)) | bits_of(Op::apply(as<float>(bits >> 32)...)) << 32;
}
template <class Op>
struct Pair {
  template <class... T>
  static uint64_t apply(T... sources) {
    return on_halves<Op>(sources...);
  }
};
template <class Op, int sources>
Run choose_pair(bool ftz) {
  return ftz ? run_lanes<Pair<WithOptions<Op, true, false>>, uint64_t, uint64_t, sources>
             : run_lanes<Pair<WithOptions<Op, false, false>>, uint64_t, uint64_t, sources>;
}

template <class Op, class Exact, int sources>
Run choose_sum(int type, Round mode, bool ftz, bool sat) {
  if (type == 0 && mode == Round::Nearest) return choose<Op, sources>(ftz, sat);
  if (type == 0) return choose_rounding<Exact, sources>(mode, ftz, sat);
  if (mode != Round::Nearest || sat) return nullptr;
  if (type == 1) return ftz ? nullptr : run_lanes<WithOptions<Op, false, false>, double, double, sources>;
  return type == 2 ? choose_pair<Op, sources>(ftz) : nullptr;
}

// add{.rnd}{.ftz}{.sat}.f32, .f64, .f32x2; the same of sub, mul and fma; mad is fma.
Run decode_sum(Instruction& i) {
  Suffixes suffixes{i};
  const int rounding = suffixes.take_one({"rn", "rz", "rm", "rp"});
  const bool fma = i.name == "fma" || i.name == "mad";
  if (fma && rounding < 0) return nullptr;
  const bool ftz = suffixes.take("ftz"), sat = suffixes.take("sat");
  const int type = suffixes.take_one({"f32", "f64", "f32x2"});
  if (!suffixes.done() || !is_plain(i, fma ? 4 : 3)) return nullptr;
  i.counted = type == 1 ? Class::Double : Class::Float;
  const Round mode = Round(std::max(rounding, 0));
  if (i.name == "add") return choose_sum<Add, ExactAdd, 2>(type, mode, ftz, sat);
  if (i.name == "sub") return choose_sum<Sub, ExactSub, 2>(type, mode, ftz, sat);
  if (i.name == "mul") return choose_sum<Mul, ExactMul, 2>(type, mode, ftz, sat);
  return choose_sum<Fma, ExactFma, 3>(type, mode, ftz, sat);
}

template <class Op, int sources, bool raw = false>
Run choose_simple(int type, bool ftz) {
  if (type == 0) return choose<Op, sources, raw>(ftz, false);
  if (type == 1 && !ftz) return run_lanes<WithOptions<Op, false, false, raw>, double, double, sources>;
  return nullptr;
}

Run decode_extreme(Instruction& i) {
  Suffixes suffixes{i};
  const bool ftz = suffixes.take("ftz"), nan = suffixes.take("NaN");
  const int type = suffixes.take_one({"f32", "f64"});
  if (!suffixes.done()) return nullptr;
  i.counted = type == 1 ? Class::Double : Class::Float;
  const bool min = i.name == "min";
  if (is_plain(i, 3)) {
    if (nan) return min ? choose_simple<MinNan, 2>(type, ftz) : choose_simple<MaxNan, 2>(type, ftz);
    return min ? choose_simple<Min, 2>(type, ftz) : choose_simple<Max, 2>(type, ftz);
  }
  return nullptr;
}

// div.rn, rcp.rn, sqrt.rn
Run decode_exact(Instruction& i) {
  Suffixes suffixes{i};
  if (!suffixes.take("rn")) return nullptr;
  const bool ftz = suffixes.take("ftz");
  const int type = suffixes.take_one({"f32", "f64"});
  if (!suffixes.done() || !is_plain(i, i.name == "div" ? 3 : 2)) return nullptr;
  i.counted = type == 1 ? Class::Double : Class::Float;
  if (i.name == "div") return choose_simple<Div, 2>(type, ftz);
  return i.name == "rcp" ? choose_simple<Reciprocal, 1>(type, ftz) : choose_simple<Sqrt, 1>(type, ftz);
}

Run decode_sign(Instruction& i) {
  Suffixes suffixes{i};
  const bool ftz = suffixes.take("ftz");
  const int type = suffixes.take_one({"f32", "f64"});
  if (!suffixes.done() || !is_plain(i, i.name == "copysign" ? 3 : 2)) return nullptr;
  i.counted = type == 1 ? Class::Double : Class::Float;
  if (i.name == "copysign") return choose_simple<CopySign, 2, true>(type, ftz);
  return i.name == "neg" ? choose_simple<Neg, 1, true>(type, ftz) : choose_simple<Abs, 1, true>(type, ftz);
}

// testp.op p, a
template <class T>
void test(Warp& warp, const Instruction& i) {
  const int op = i.data[0];
  map(
      warp, warp.lanes(i[0].reg),
      [op](uint64_t bits) -> uint64_t {
        const T x = as<T>(bits);
        switch (op) {
          case 0: return std::isfinite(x);
          case 1: return std::isinf(x);
          case 2: return !std::isnan(x);
          case 3: return std::isnan(x);
          case 4: return std::isnormal(x) || x == 0;
          default: return std::isfinite(x) && !std::isnormal(x) && x != 0;
        }
      },
      warp.values(i[1]));
}

Run decode_test(Instruction& i) {
  Suffixes suffixes{i};
  i.data[0] = suffixes.take_one({"finite", "infinite", "number", "notanumber", "normal", "subnormal"});
  const int type = suffixes.take_one({"f32", "f64"});
  i.counted = type == 1 ? Class::Double : Class::Float;
  if (i.data[0] < 0 || type < 0 || !suffixes.done() || !is_plain(i, 2)) return nullptr;
  return type ? test<double> : test<float>;
}

const Family sums({"add", "sub", "mul", "fma", "mad"}, decode_sum);
const Family extremes({"min", "max"}, decode_extreme);
const Family exact({"div", "rcp", "sqrt"}, decode_exact);
const Family signs({"neg", "abs", "copysign"}, decode_sign);
const Family tests({"testp"}, decode_test);

}  // namespace
}  // namespace ptx
