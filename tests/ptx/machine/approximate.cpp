// Approximate functions (PTX ISA 9.7.3: div, rcp, sqrt, rsqrt, sin, cos, lg2, ex2, tanh). They are computed in double
// and rounded. With Options::approximate_error, results are moved by that part of the error that the section documents:
// by seed % 3, of a sign that is a function of the argument, upwards, or downwards.
#include <cmath>

#include "block.h"
#include "family.h"

namespace ptx {
namespace {

constexpr uint32_t kNaN = 0x7fffffff;
constexpr uint64_t kNaN64 = 0x7fffffff00000000;
constexpr double kPi = 3.14159265358979323846;

double ulp(double y) { return std::ldexp(1.0, std::max(std::ilogb(y), -126) - 23); }

// The function, and how far a finite result other than zero may be from the exact one.
struct Ex2 {
  static double exact(double x, double) { return std::exp2(x); }
  static double error(double, double, double y) { return 2 * ulp(y); }
};
struct Lg2 {
  static double exact(double x, double) { return std::log2(x); }
  static double error(double x, double, double y) { return (x > 0.5 && x < 2.0 ? 1.0 : std::fabs(y)) * 0x1p-22; }
};
struct Rcp {
  static double exact(double x, double) { return 1.0 / x; }
  static double error(double, double, double y) { return ulp(y); }
};
struct Sqrt {
  static double exact(double x, double) { return std::sqrt(x); }
  static double error(double, double, double y) { return y * 0x1p-23; }
};
struct Rsqrt {
  static double exact(double x, double) { return 1.0 / std::sqrt(x); }
  static double error(double, double, double y) { return y * std::exp2(-22.9); }
};
double error_of_angle(double x) { return std::exp2(std::fabs(x) <= 2 * kPi ? -20.5 : -14.7); }
struct Sin {
  static double exact(double x, double) { return std::sin(x); }
  static double error(double x, double, double) { return error_of_angle(x); }
};
struct Cos {
  static double exact(double x, double) { return std::cos(x); }
  static double error(double x, double, double) { return error_of_angle(x); }
};
struct Tanh {
  static double exact(double x, double) { return std::tanh(x); }
  static double error(double, double, double y) { return std::fabs(y) * 0x1p-11; }
};
struct DivFull {
  static double exact(double x, double y) { return x / y; }
  static double error(double, double, double result) { return 2 * ulp(result); }
};
struct DivApprox {  // large divisors have a reciprocal that is zero
  static double exact(double x, double y) {
    return std::fabs(y) > 0x1p126 && std::isfinite(y) ? x * std::copysign(0.0, y) : x / y;
  }
  static double error(double, double, double result) { return 2 * ulp(result); }
};

// +1 or -1.
double sign_of(uint64_t seed, uint64_t bits) {
  if (seed % 3) return seed % 3 == 1 ? 1.0 : -1.0;
  uint64_t mixed = (bits + seed) * 0x9e3779b97f4a7c15u;
  mixed = (mixed ^ mixed >> 29) * 0xbf58476d1ce4e5b9u;
  return mixed >> 40 & 1 ? 1.0 : -1.0;
}

float flushed(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

template <class F>
float moved(float result, double exact, double x, double y, const Options& options, uint64_t bits) {
  if (result == 0.0f || !std::isfinite(result) || x == 0.0) return result;
  const double limit = options.approximate_error * F::error(x, y, exact);
  float there = float(exact + sign_of(options.seed, bits) * limit);
  if (std::fabs(there - exact) > limit) there = std::nextafter(there, result);  // not beyond by rounding
  return std::fabs(there - exact) > limit ? result : there;
}

template <class F, bool ftz>
void run_float(Warp& warp, const Instruction& i) {
  const Options& options = warp.block.launch.options;
  const uint64_t *first = warp.values(i[1]), *second = warp.values(i.operands.back());
  uint64_t* d = warp.lanes(i[0].reg);
  each(warp, [&](int lane) {
    float x = as<float>(first[lane]), y = as<float>(second[lane]);
    if (ftz) x = flushed(x), y = flushed(y);
    const double exact = F::exact(x, y);
    float result = float(exact);
    if (options.approximate_error > 0.0)
      result = moved<F>(result, exact, x, y, options, first[lane] ^ second[lane] << 32);
    if (ftz) result = flushed(result);
    d[lane] = std::isnan(result) ? kNaN : bits_of(result);
  });
}

// .approx.ftz.f64: of the upper words alone; about 20 bits are right.
template <class F>
void run_double(Warp& warp, const Instruction& i) {
  const Options& options = warp.block.launch.options;
  const uint64_t* source = warp.values(i[1]);
  uint64_t* d = warp.lanes(i[0].reg);
  const auto flush = [](double x) { return std::fabs(x) < 0x1p-1022 ? std::copysign(0.0, x) : x; };
  each(warp, [&](int lane) {
    const double x = flush(as<double>(source[lane] & 0xffffffff00000000u));
    double y = F::exact(x, 0.0);
    if (std::isfinite(y) && x != 0.0)
      y *= 1.0 + options.approximate_error * sign_of(options.seed, source[lane]) * 0x1p-20;
    d[lane] = std::isnan(y) ? kNaN64 : bits_of(flush(y)) & 0xffffffff00000000u;
  });
}

template <class F>
Run float_form(Instruction& i, Suffixes& suffixes, size_t sources) {
  const bool ftz = suffixes.take("ftz");
  if (!suffixes.take("f32") || !suffixes.done() || !is_plain(i, sources + 1)) return nullptr;
  i.counted = Class::Special;
  return ftz ? run_float<F, true> : run_float<F, false>;
}

template <class F>
Run double_form(Instruction& i) {
  i.counted = Class::Special;
  return is_plain(i, 2) ? run_double<F> : nullptr;
}

template <class F>
Run decode_function(Instruction& i) {
  Suffixes suffixes{i};
  return suffixes.take("approx") ? float_form<F>(i, suffixes, 1) : nullptr;
}

template <class F>
Run decode_reciprocal(Instruction& i) {
  if (i.suffixes == std::vector<std::string>{"approx", "ftz", "f64"}) return double_form<F>(i);
  return decode_function<F>(i);
}

Run decode_div(Instruction& i) {
  Suffixes suffixes{i};
  if (suffixes.take("approx")) return float_form<DivApprox>(i, suffixes, 2);
  return suffixes.take("full") ? float_form<DivFull>(i, suffixes, 2) : nullptr;
}

Family functions[] = {
    {{"ex2"}, decode_function<Ex2>},   {{"lg2"}, decode_function<Lg2>},       {{"sqrt"}, decode_function<Sqrt>},
    {{"sin"}, decode_function<Sin>},   {{"cos"}, decode_function<Cos>},       {{"tanh"}, decode_function<Tanh>},
    {{"rcp"}, decode_reciprocal<Rcp>}, {{"rsqrt"}, decode_reciprocal<Rsqrt>}, {{"div"}, decode_div},
};

}  // namespace
}  // namespace ptx
