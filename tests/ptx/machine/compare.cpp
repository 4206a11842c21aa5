// setp, set, selp, slct (PTX ISA, section 9.7.6 and 9.7.7).
#include "family.h"
#include "lanes.h"
#include "rounding.h"

namespace ptx {
namespace {

PTX_OPERATION(Eq, uint64_t{a == b}, T a, T b);
PTX_OPERATION(Ne, uint64_t{!(a == b)} & uint64_t{a == a} & uint64_t{b == b}, T a, T b);
PTX_OPERATION(Lt, uint64_t{a < b}, T a, T b);
PTX_OPERATION(Le, uint64_t{a <= b}, T a, T b);
PTX_OPERATION(Gt, uint64_t{a > b}, T a, T b);
PTX_OPERATION(Ge, uint64_t{a >= b}, T a, T b);
// True of a NaN, too.
PTX_OPERATION(Equ, uint64_t{a == b} | uint64_t{a != a} | uint64_t{b != b}, T a, T b);
PTX_OPERATION(Neu, uint64_t{!(a == b)}, T a, T b);
PTX_OPERATION(Ltu, uint64_t{!(a >= b)}, T a, T b);
PTX_OPERATION(Leu, uint64_t{!(a > b)}, T a, T b);
PTX_OPERATION(Gtu, uint64_t{!(a <= b)}, T a, T b);
PTX_OPERATION(Geu, uint64_t{!(a < b)}, T a, T b);
PTX_OPERATION(Num, uint64_t{a == a} & uint64_t{b == b}, T a, T b);
PTX_OPERATION(NotNum, uint64_t{a != a} | uint64_t{b != b}, T a, T b);

// How the bits of a register are read.
template <class T>
struct Read {
  static T from(uint64_t bits) { return as<T>(bits); }
};
struct Flushed {
  static float from(uint64_t bits) { return flush(as<float>(bits)); }
};
struct Half {
  static float from(uint64_t bits) { return from_half(uint16_t(bits)); }
};
struct Bfloat {
  static float from(uint64_t bits) { return from_bfloat(uint16_t(bits)); }
};

enum Combine { Alone, And, Or, Xor };

uint64_t combine(int how, uint64_t truth, uint64_t c) {
  return how == Alone ? truth : how == And ? truth & c : how == Or ? truth | c : truth ^ c;
}

// setp.op p, a, b: the common form.
template <class Op, class From>
void compare(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg), [](uint64_t a, uint64_t b) { return Op::apply(From::from(a), From::from(b)); },
      warp.values(i[1]), warp.values(i[2]));
}

// Into 32 truth values, for the other forms.
using Truth = void (*)(const uint64_t* a, const uint64_t* b, int shift, uint64_t* to);

template <class Op, class From>
void truth(const uint64_t* a, const uint64_t* b, int shift, uint64_t* to) {
  for (int lane = 0; lane < kLanes; ++lane)
    to[lane] = Op::apply(From::from(a[lane] >> shift), From::from(b[lane] >> shift));
}

void find_truth(Warp& warp, const Instruction& i, int shift, uint64_t* to) {
  reinterpret_cast<Truth>(i.data[2])(warp.values(i[1]), warp.values(i[2]), shift, to);
}

void put(Warp& warp, const Operand& to, const uint64_t* values) {
  if (to.kind == Operand::Register) map(warp, warp.lanes(to.reg), [](uint64_t value) { return value; }, values);
}

// setp.op.boolean p|q, a, b, c; of pairs of halves p is of the lower and q of the upper.
template <bool pair>
void compare_more(Warp& warp, const Instruction& i) {
  alignas(64) uint64_t first[kLanes], second[kLanes];
  const int how = i.data[0];
  find_truth(warp, i, 0, first);
  if (pair) find_truth(warp, i, 16, second);
  const uint32_t c = how ? warp.bits(i[3]) : 0;
  for (int lane = 0; lane < kLanes; ++lane) {
    const uint64_t other = c >> lane & 1;
    if (!pair) second[lane] = first[lane] ^ 1;
    first[lane] = combine(how, first[lane], other);
    second[lane] = combine(how, second[lane], other);
  }
  put(warp, i[0], first);
  if (!i[0].parts.empty()) put(warp, i[0].parts[0], second);
}

// set.op.dtype.stype d, a, b: all ones or 1.0.
void set(Warp& warp, const Instruction& i) {
  const uint64_t yes = i.data[1];
  const int how = i.data[0];
  const uint32_t c = how ? warp.bits(i[3]) : 0;
  alignas(64) uint64_t values[kLanes];
  find_truth(warp, i, 0, values);
  for (int lane = 0; lane < kLanes; ++lane) values[lane] = combine(how, values[lane], c >> lane & 1) ? yes : 0;
  put(warp, i[0], values);
}

// For setp.op p, a, b; for the other forms, after what they need was kept.
template <class Op, class From>
Run choose_form(Instruction& i) {
  i.data[2] = reinterpret_cast<int64_t>(Truth{truth<Op, From>});
  return compare<Op, From>;
}

template <class From>
Run choose_order(int op, Instruction& i) {
  switch (op) {
    case 0: return choose_form<Eq, From>(i);
    case 1: return choose_form<Ne, From>(i);
    case 2:
    case 6: return choose_form<Lt, From>(i);
    case 3:
    case 7: return choose_form<Le, From>(i);
    case 4:
    case 8: return choose_form<Gt, From>(i);
    case 5:
    case 9: return choose_form<Ge, From>(i);
    default: return nullptr;
  }
}

template <class From>
Run choose_float(int op, Instruction& i) {
  switch (op) {
    case 10: return choose_form<Equ, From>(i);
    case 11: return choose_form<Neu, From>(i);
    case 12: return choose_form<Ltu, From>(i);
    case 13: return choose_form<Leu, From>(i);
    case 14: return choose_form<Gtu, From>(i);
    case 15: return choose_form<Geu, From>(i);
    case 16: return choose_form<Num, From>(i);
    case 17: return choose_form<NotNum, From>(i);
    default: return op < 6 ? choose_order<From>(op, i) : nullptr;
  }
}

Run choose(int type, int op, bool ftz, Instruction& i) {
  if (ftz && type != 9) return nullptr;
  switch (type) {
    case 0: return choose_order<Read<uint16_t>>(op, i);
    case 1: return choose_order<Read<uint32_t>>(op, i);
    case 2: return choose_order<Read<uint64_t>>(op, i);
    case 3: return choose_order<Read<int16_t>>(op, i);
    case 4: return choose_order<Read<int32_t>>(op, i);
    case 5: return choose_order<Read<int64_t>>(op, i);
    case 6: return op < 2 ? choose_order<Read<uint16_t>>(op, i) : nullptr;
    case 7: return op < 2 ? choose_order<Read<uint32_t>>(op, i) : nullptr;
    case 8: return op < 2 ? choose_order<Read<uint64_t>>(op, i) : nullptr;
    case 9: return ftz ? choose_float<Flushed>(op, i) : choose_float<Read<float>>(op, i);
    case 10: return choose_float<Read<double>>(op, i);
    case 11:
    case 12: return choose_float<Half>(op, i);
    case 13:
    case 14: return choose_float<Bfloat>(op, i);
    default: return nullptr;
  }
}

Run decode_compare(Instruction& i) {
  Suffixes suffixes{i};
  const int op = suffixes.take_one({"eq", "ne", "lt", "le", "gt", "ge", "lo", "ls", "hi", "hs", "equ", "neu", "ltu",
                                    "leu", "gtu", "geu", "num", "nan"});
  const int how = suffixes.take_one({"and", "or", "xor"}) + 1;
  const bool ftz = suffixes.take("ftz"), to_set = i.name == "set";
  const int to = to_set ? suffixes.take_one({"u32", "s32", "f32"}) : 0;
  const int type = suffixes.take_one(
      {"u16", "u32", "u64", "s16", "s32", "s64", "b16", "b32", "b64", "f32", "f64", "f16", "f16x2", "bf16", "bf16x2"});
  const size_t count = how ? 4 : 3;
  if (op < 0 || to < 0 || type < 0 || !suffixes.done() || i.operands.size() != count) return nullptr;
  for (size_t k = 1; k < count; ++k)
    if (!is_value(i[k])) return nullptr;
  const bool pairs = type == 12 || type == 14;
  if (!is_register(i[0]) && (to_set || i[0].parts.empty())) return nullptr;
  if (to_set && pairs) return nullptr;
  i.data[0] = how;
  i.data[1] = to == 2 ? 0x3f800000 : 0xffffffff;
  const bool plain = !how && i[0].parts.empty();
  const Run simple = choose(type, op, ftz, i);
  if (!simple || (plain && !to_set && !pairs)) return simple;
  return to_set ? set : pairs ? compare_more<true> : compare_more<false>;
}

void select(Warp& warp, const Instruction& i) {
  const uint64_t flip = i[3].negated;
  map(
      warp, warp.lanes(i[0].reg), [flip](uint64_t a, uint64_t b, uint64_t p) { return (p ^ flip) & 1 ? a : b; },
      warp.values(i[1]), warp.values(i[2]), warp.values(i[3]));
}

Run decode_select(Instruction& i) {
  Suffixes suffixes{i};
  const int type = suffixes.take_one({"b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"});
  return type >= 0 && suffixes.done() && is_plain(i, 4) ? select : nullptr;
}

// slct.dtype.ctype d, a, b, c: a if c >= 0.
template <class T>
void select_sign(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg), [](uint64_t a, uint64_t b, uint64_t c) { return as<T>(c) >= 0 ? a : b; },
      warp.values(i[1]), warp.values(i[2]), warp.values(i[3]));
}

Run decode_select_sign(Instruction& i) {
  Suffixes suffixes{i};
  const int type = suffixes.take_one({"b16", "b32", "b64", "u16", "u32", "u64", "s16", "s32", "s64", "f32", "f64"});
  const int c = suffixes.take_one({"s32", "f32"});
  if (type < 0 || c < 0 || !suffixes.done() || !is_plain(i, 4)) return nullptr;
  return c ? select_sign<float> : select_sign<int32_t>;
}

const Family compares({"setp", "set"}, decode_compare);
const Family selects({"selp"}, decode_select);
const Family sign_selects({"slct"}, decode_select_sign);

}  // namespace
}  // namespace ptx
