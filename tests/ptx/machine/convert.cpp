// cvt (PTX ISA, section 9.7.9.21).
#include "family.h"
#include "lanes.h"
#include "rounding.h"

namespace ptx {
namespace {

enum Type { U8, S8, U16, S16, U32, S32, U64, S64, F16, BF16, F32, F64, TF32, F16X2, BF16X2 };
enum class Whole : uint8_t { None, Nearest, Zero, Down, Up };  // .rni, .rzi, .rmi, .rpi

struct Form {
  Type to, from;
  Whole whole = Whole::None;
  Round round = Round::Nearest;
  bool rounded = false, ftz = false, sat = false, relu = false, finite = false;
};

bool is_integer(Type type) { return type < F16; }
int width(Type type) {
  constexpr int kBits[] = {8, 8, 16, 16, 32, 32, 64, 64, 16, 16, 32, 64, 32, 32, 32};
  return kBits[type];
}
bool is_signed(Type type) { return type == S8 || type == S16 || type == S32 || type == S64; }

// Sources as int64 (the bits of uint64 as they are) or double: exactly.
template <class T>
struct Integer {
  static uint64_t from(uint64_t bits) { return static_cast<uint64_t>(as<T>(bits)); }
};
template <Type type>
double real(uint64_t bits) {
  if (type == F16) return from_half(uint16_t(bits));
  if (type == BF16) return from_bfloat(uint16_t(bits));
  return type == F32 ? as<float>(bits) : as<double>(bits);
}

template <class Source, class F>
void convert(Warp& warp, const Instruction& i, F f) {
  map(warp, warp.lanes(i[0].reg), [f](uint64_t bits) { return f(Source::from(bits)); }, warp.values(i[1]));
}

template <class T>
void extend(Warp& warp, const Instruction& i) {
  convert<Integer<T>>(warp, i, [](uint64_t x) { return x; });
}

// With .sat: into the range of the other type.
template <class T>
void clamp(Warp& warp, const Instruction& i) {
  const auto least = i.data[0];
  const auto most = static_cast<uint64_t>(i.data[1]);
  convert<Integer<T>>(warp, i, [least, most](uint64_t x) {
    if (std::is_signed_v<T> && int64_t(x) < 0) return int64_t(x) < least ? uint64_t(least) : x;
    return x > most ? most : x;
  });
}

template <class T>
void to_float(Warp& warp, const Instruction& i) {
  map(warp, warp.lanes(i[0].reg), [](uint64_t x) { return bits_of(static_cast<float>(as<T>(x))); }, warp.values(i[1]));
}
template <class T>
void to_double(Warp& warp, const Instruction& i) {
  map(warp, warp.lanes(i[0].reg), [](uint64_t x) { return bits_of(static_cast<double>(as<T>(x))); }, warp.values(i[1]));
}

double whole_number(double x, Whole mode) {
  switch (mode) {
    case Whole::Nearest: return std::nearbyint(x);
    case Whole::Zero: return std::trunc(x);
    case Whole::Down: return std::floor(x);
    case Whole::Up: return std::ceil(x);
    default: return x;
  }
}

uint64_t put(double x, const Form& form) {
  if (form.relu && !(x > 0)) x = x != x ? x : 0;
  if (form.sat) x = saturate(x);
  switch (form.to) {
    case F16: return to_half(form.finite ? std::clamp(x, -65504.0, 65504.0) : x, form.round);
    case BF16: return to_bfloat(form.finite ? std::clamp(x, -0x1.fep127, 0x1.fep127) : x, form.round);
    case F32: {
      const float result = canonical(round_to_float(x, form.round));
      return bits_of(form.ftz ? flush(result) : result);
    }
    case TF32:  // the lower 13 bits are zero
      return x != x ? 0x7fffffff : bits_of(static_cast<float>(round_to(x, 10, -126, 0x1.ffcp127, form.round)));
    default: return bits_of(canonical(x));
  }
}

// Any conversion of real numbers. The form is kept in `more`.
template <Type from>
void general(Warp& warp, const Instruction& i) {
  const Form form = *static_cast<const Form*>(i.more.get());
  const uint64_t* a = warp.values(i[1]);
  uint64_t* d = warp.lanes(i[0].reg);
  each(warp, [&](int lane) {
    double x = real<from>(a[lane]);
    if (from == F32 && form.ftz) x = flush(static_cast<float>(x));
    x = whole_number(x, form.whole);
    if (!is_integer(form.to)) {
      d[lane] = put(x, form);
      return;
    }
    if (x != x) {
      d[lane] = 0;
    } else if (is_signed(form.to)) {
      const double bound = std::ldexp(1.0, width(form.to) - 1);
      d[lane] = x >= bound ? (uint64_t{1} << (width(form.to) - 1)) - 1 : uint64_t(int64_t(std::max(x, -bound)));
    } else {
      const double bound = std::ldexp(1.0, width(form.to));
      d[lane] = x >= bound ? ~uint64_t{0} : x <= 0 ? 0 : uint64_t(x);
    }
  });
}

// Integers of up to 32 bits to anything.
template <class T>
void general_integer(Warp& warp, const Instruction& i) {
  const Form form = *static_cast<const Form*>(i.more.get());
  const uint64_t* a = warp.values(i[1]);
  uint64_t* d = warp.lanes(i[0].reg);
  each(warp, [&](int lane) { d[lane] = put(as<T>(a[lane]), form); });
}

// Two in one: a is the upper half.
void general_pair(Warp& warp, const Instruction& i) {
  Form form = *static_cast<const Form*>(i.more.get());
  form.to = form.to == F16X2 ? F16 : BF16;
  const uint64_t *a = warp.values(i[1]), *b = warp.values(i[2]);
  uint64_t* d = warp.lanes(i[0].reg);
  each(warp, [&](int lane) { d[lane] = put(as<float>(a[lane]), form) << 16 | put(as<float>(b[lane]), form); });
}

// What occurs most, without branches.
void half_to_float(Warp& warp, const Instruction& i) {
  map(warp, warp.lanes(i[0].reg), [](uint64_t a) { return bits_of(from_half(uint16_t(a))); }, warp.values(i[1]));
}
void bfloat_to_float(Warp& warp, const Instruction& i) {
  map(warp, warp.lanes(i[0].reg), [](uint64_t a) { return (a & 0xffff) << 16; }, warp.values(i[1]));
}
void float_to_double(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg), [](uint64_t a) { return bits_of(canonical(double(as<float>(a)))); },
      warp.values(i[1]));
}
void double_to_float(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg), [](uint64_t a) { return bits_of(canonical(static_cast<float>(as<double>(a)))); },
      warp.values(i[1]));
}
template <uint16_t to(float)>
void float_to_16(Warp& warp, const Instruction& i) {
  map(warp, warp.lanes(i[0].reg), [](uint64_t a) { return uint64_t{to(as<float>(a))}; }, warp.values(i[1]));
}
template <uint16_t to(float)>
void float_to_pair(Warp& warp, const Instruction& i) {
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a, uint64_t b) { return uint64_t{to(as<float>(a))} << 16 | to(as<float>(b)); }, warp.values(i[1]),
      warp.values(i[2]));
}
void float_to_tf32(Warp& warp, const Instruction& i) {  // .rna
  map(
      warp, warp.lanes(i[0].reg),
      [](uint64_t a) -> uint64_t {
        const uint32_t bits = uint32_t(a);
        const bool finite = (bits & 0x7f800000) != 0x7f800000;
        return as<float>(a) != as<float>(a) ? 0x7fffffff : finite ? (bits + 0x1000) & 0xffffe000 : bits;
      },
      warp.values(i[1]));
}

Run choose_integers(Instruction& i, const Form& form) {
  const bool s = is_signed(form.to);
  i.data[0] = s ? int64_t(~uint64_t{0} << (width(form.to) - 1)) : 0;
  i.data[1] = static_cast<int64_t>(~uint64_t{0} >> (64 - width(form.to) + s));
  const bool sat = form.sat;
  switch (form.from) {
    case U8: return sat ? clamp<uint8_t> : extend<uint8_t>;
    case S8: return sat ? clamp<int8_t> : extend<int8_t>;
    case U16: return sat ? clamp<uint16_t> : extend<uint16_t>;
    case S16: return sat ? clamp<int16_t> : extend<int16_t>;
    case U32: return sat ? clamp<uint32_t> : extend<uint32_t>;
    case S32: return sat ? clamp<int32_t> : extend<int32_t>;
    case U64: return sat ? clamp<uint64_t> : extend<uint64_t>;
    default: return sat ? clamp<int64_t> : extend<int64_t>;
  }
}

Run choose_from_integer(const Form& form) {
  const bool simple = form.round == Round::Nearest && !form.sat && !form.relu;
  const bool single = form.to == F32 && simple, twice = form.to == F64 && simple;
  switch (form.from) {
    case U8: return single ? to_float<uint8_t> : twice ? to_double<uint8_t> : general_integer<uint8_t>;
    case S8: return single ? to_float<int8_t> : twice ? to_double<int8_t> : general_integer<int8_t>;
    case U16: return single ? to_float<uint16_t> : twice ? to_double<uint16_t> : general_integer<uint16_t>;
    case S16: return single ? to_float<int16_t> : twice ? to_double<int16_t> : general_integer<int16_t>;
    case U32: return single ? to_float<uint32_t> : twice ? to_double<uint32_t> : general_integer<uint32_t>;
    case S32: return single ? to_float<int32_t> : twice ? to_double<int32_t> : general_integer<int32_t>;
    case U64: return single ? to_float<uint64_t> : twice ? to_double<uint64_t> : nullptr;
    default: return single ? to_float<int64_t> : twice ? to_double<int64_t> : nullptr;
  }
}

Run choose_from_real(const Form& form) {
  const bool plain = !form.ftz && !form.sat && !form.relu && !form.finite && form.whole == Whole::None;
  const bool nearest = plain && form.round == Round::Nearest;
  if (form.from == F16 && form.to == F32 && plain) return half_to_float;
  if (form.from == BF16 && form.to == F32 && plain) return bfloat_to_float;
  if (form.from == F32 && form.to == F64 && plain) return float_to_double;
  if (form.from == F64 && form.to == F32 && nearest) return double_to_float;
  if (form.from == F32 && form.to == F16 && nearest) return float_to_16<half_of>;
  if (form.from == F32 && form.to == BF16 && nearest) return float_to_16<bfloat_of>;
  if (form.from == F32 && form.to == TF32 && plain && form.round == Round::NearestAway) return float_to_tf32;
  switch (form.from) {
    case F16: return general<F16>;
    case BF16: return general<BF16>;
    case F32: return general<F32>;
    default: return general<F64>;
  }
}

Run decode(Instruction& i) {
  i.counted = Class::Convert;
  Suffixes suffixes{i};
  Form form;
  form.whole = Whole(suffixes.take_one({"rni", "rzi", "rmi", "rpi"}) + 1);
  const int rounding = suffixes.take_one({"rn", "rz", "rm", "rp", "rna"});
  form.rounded = rounding >= 0;
  form.round = Round(std::max(rounding, 0));
  form.finite = suffixes.take("satfinite");
  form.relu = suffixes.take("relu");
  form.finite |= suffixes.take("satfinite");
  form.ftz = suffixes.take("ftz");
  form.sat = suffixes.take("sat");
  const std::initializer_list<const char*> types = {"u8",  "s8",   "u16", "s16", "u32",  "s32",   "u64",   "s64",
                                                    "f16", "bf16", "f32", "f64", "tf32", "f16x2", "bf16x2"};
  const int to = suffixes.take_one(types), from = suffixes.take_one(types);
  if (to < 0 || from < 0 || from > F64 || !suffixes.done()) return nullptr;
  form.to = Type(to);
  form.from = Type(from);
  i.more = std::make_shared<Form>(form);
  const bool pair = form.to == F16X2 || form.to == BF16X2;
  if (!is_plain(i, pair ? 3 : 2)) return nullptr;
  if (pair) {
    if (form.from != F32 || !form.rounded || form.sat || form.ftz) return nullptr;
    const bool plain = form.round == Round::Nearest && !form.relu && !form.finite;
    if (!plain) return general_pair;
    return form.to == F16X2 ? float_to_pair<half_of> : float_to_pair<bfloat_of>;
  }
  if (is_integer(form.from)) {
    if (form.ftz || form.relu || form.finite || form.whole != Whole::None) return nullptr;
    if (is_integer(form.to)) return form.rounded ? nullptr : choose_integers(i, form);
    return form.rounded && form.to <= F64 ? choose_from_integer(form) : nullptr;
  }
  if (is_integer(form.to)) return form.whole == Whole::None || form.rounded ? nullptr : choose_from_real(form);
  if (form.to == TF32 && (form.from != F32 || !form.rounded)) return nullptr;
  const bool narrower = width(form.to) < width(form.from);
  if (narrower && !form.rounded) return nullptr;
  return choose_from_real(form);
}

const Family family({"cvt"}, decode);

}  // namespace
}  // namespace ptx
