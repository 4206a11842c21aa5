// Numbers, products and loads of matrices, by the tables of the PTX ISA ("Matrix Fragments for mma.m16n8k16", "for
// mma.m16n8k8", "ldmatrix"). Sums of products are float32, in the order of k, without fused operations; with
// MULTIMIX_SIMT_ERRORS they are exact, and truncated.
#include <cmath>
#include <cstdlib>
#include <limits>
#include <string>

#include "block.h"
#include "cuda/device/primitives.h"
#include "shadow.h"

namespace simt {
namespace {

constexpr uint32_t kWholeWarp = 0xffffffffu;

template <class T>
T* operands(Warp& warp, int lane) {
  return static_cast<T*>(warp.threads[lane].request.operands);
}

bool with_errors() {
  static const bool wanted = std::getenv("MULTIMIX_SIMT_ERRORS") != nullptr;
  return wanted;
}

float truncated(double x) {
  const float y = float(x);
  return std::fabs(double(y)) > std::fabs(x) ? std::nextafter(y, 0.0f) : y;
}

template <int K>
void multiply(const float (&a)[16][K], const float (&b)[K][8], float (&d)[16][8]) {
  if (with_errors()) {
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) {
        double sum = d[i][j];
        for (int k = 0; k < K; ++k) sum += double(a[i][k]) * b[k][j];
        d[i][j] = truncated(sum);
      }
    return;
  }
  for (int k = 0; k < K; ++k)
    for (int i = 0; i < 16; ++i)
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
}

// c0..c3: row g for i < 2, else g + 8; column 2 t + i % 2.
template <class Multiply, class Accumulators>
void accumulate(Accumulators accumulators, Multiply multiply) {
  float d[16][8];
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) d[lane / 4 + (i < 2 ? 0 : 8)][lane % 4 * 2 + i % 2] = accumulators(lane)[i];
  multiply(d);
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) accumulators(lane)[i] = d[lane / 4 + (i < 2 ? 0 : 8)][lane % 4 * 2 + i % 2];
}

struct Product16 {
  Matrix type;
  float* d;
  const uint32_t *a, *b;
};

float element(Matrix type, uint32_t bits) {
  return type == Matrix::kBF16 ? bit_cast<float>(bits << 16) : from_f16(uint16_t(bits));
}

void finish_16x8x16(Warp& warp, uint32_t) {
  float a[16][16], b[16][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const Product16& own = *operands<Product16>(warp, lane);
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < 8; ++i) {  // a0..a7
      const int row = i < 2 || (i >= 4 && i < 6) ? group : group + 8;
      const int column = member * 2 + i % 2 + (i >= 4 ? 8 : 0);
      a[row][column] = element(own.type, own.a[i / 2] >> (i % 2 * 16) & 0xffff);
    }
    for (int i = 0; i < 4; ++i) {  // b0..b3
      const int row = member * 2 + i % 2 + (i >= 2 ? 8 : 0);
      b[row][group] = element(own.type, own.b[i / 2] >> (i % 2 * 16) & 0xffff);
    }
  }
  accumulate([&](int lane) { return operands<Product16>(warp, lane)->d; },
             [&](float (&d)[16][8]) { multiply(a, b, d); });
}

struct Product8 {
  float* d;
  const float *a, *b;
};

float tf32(Warp& warp, int lane, float x) {
  if ((bit_cast<uint32_t>(x) & 0x1fff) != 0 && x == x)
    fail(warp.threads[lane].request.text() + ": an operand of lane " + std::to_string(lane) + " is no TF32 number");
  return x;
}

void finish_16x8x8(Warp& warp, uint32_t) {
  float a[16][8], b[8][8];
  for (int lane = 0; lane < kLanes; ++lane) {
    const Product8& own = *operands<Product8>(warp, lane);
    const int group = lane / 4, member = lane % 4;
    for (int i = 0; i < 4; ++i)
      a[i == 0 || i == 2 ? group : group + 8][i < 2 ? member : member + 4] = tf32(warp, lane, own.a[i]);
    for (int i = 0; i < 2; ++i) b[i == 0 ? member : member + 4][group] = tf32(warp, lane, own.b[i]);
  }
  accumulate([&](int lane) { return operands<Product8>(warp, lane)->d; },
             [&](float (&d)[16][8]) { multiply(a, b, d); });
}

struct Load {
  const void* row;
  uint32_t* r;
};

// Each lane is checked for the elements that it receives: the lane that names a row does not read it.
void finish_load(Warp& warp, bool transposed) {
  for (int lane = 0; lane < kLanes; ++lane) {
    const uintptr_t row = uintptr_t(operands<Load>(warp, lane)->row);
    const std::string name = warp.threads[lane].request.name;
    if (row % 16 != 0) fail("misaligned row of " + name + ", lane " + std::to_string(lane) + ": " + place(row, 16));
    if (!in_shared(row, 16))
      fail("out-of-bounds row of " + name + ", lane " + std::to_string(lane) + ": " + place(row, 16));
  }
  for (int lane = 0; lane < kLanes; ++lane)
    for (int i = 0; i < 4; ++i) {
      const auto fetch = [&](int row, int column, auto zero) {
        using T = decltype(zero);
        const char* at = static_cast<const char*>(operands<Load>(warp, 8 * i + row)->row) + column * 2;
        touch(warp.threads[lane], uintptr_t(at), sizeof(T), Access::kRead, nullptr);
        return *reinterpret_cast<const T*>(at);
      };
      uint32_t& r = operands<Load>(warp, lane)->r[i];
      if (transposed)
        r = fetch(lane % 4 * 2, lane / 4, uint16_t{}) | uint32_t(fetch(lane % 4 * 2 + 1, lane / 4, uint16_t{})) << 16;
      else
        r = fetch(lane / 4, lane % 4 * 2, uint32_t{});
    }
}

}  // namespace

uint16_t to_bf16(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  if (x != x) return 0x7fff;
  return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

uint16_t to_f16(float x) {
  if (x != x) return 0x7fff;
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const float size = std::fabs(x);
  if (size >= 65520.0f) return sign | 0x7c00;
  if (size < 0x1p-14f)
    return uint16_t(sign | int(std::nearbyint(size * 0x1p24f)));  // subnormal, or the smallest normal
  const uint32_t bits = bit_cast<uint32_t>(size) - (uint32_t(127 - 15) << 23);
  return uint16_t(sign | ((bits + 0xfff + (bits >> 13 & 1)) >> 13));
}

float from_f16(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  float size = std::ldexp(float(exponent == 0 ? mantissa : mantissa + 1024), exponent == 0 ? -24 : exponent - 25);
  if (exponent == 31) size = mantissa == 0 ? INFINITY : NAN;
  return bits & 0x8000 ? -size : size;
}

void multiply_16x8x16(Matrix type, float* d, const uint32_t* a, const uint32_t* b, const char* file, int line) {
  Product16 product{type, d, a, b};
  meet({type == Matrix::kBF16 ? "mma_16x8x16<BF16>" : "mma_16x8x16<F16>", file, line, kWholeWarp, &product},
       finish_16x8x16);
}

void multiply_16x8x8(float* d, const float* a, const float* b, const char* file, int line) {
  Product8 product{d, a, b};
  meet({"mma_16x8x8", file, line, kWholeWarp, &product}, finish_16x8x8);
}

void load_rows(bool transposed, uint32_t* r, const void* row, const char* file, int line) {
  Load load{row, r};
  if (transposed)
    meet({"load_matrices_transposed", file, line, kWholeWarp, &load},
         [](Warp& warp, uint32_t) { finish_load(warp, true); });
  else
    meet({"load_matrices", file, line, kWholeWarp, &load}, [](Warp& warp, uint32_t) { finish_load(warp, false); });
}

}  // namespace simt

namespace multimix {
namespace {

float flush(float x) { return std::fabs(x) < 0x1p-126f ? std::copysign(0.0f, x) : x; }

// Zero or, with MULTIMIX_SIMT_ERRORS, the bound with a sign that depends on the argument.
float error(float x, float bound) {
  if (!simt::with_errors()) return 0;
  return __builtin_parity(simt::bit_cast<uint32_t>(x) * 0x9e3779b9u) ? bound : -bound;
}

}  // namespace

float round_tf32(float x) {
  if (x != x) return simt::bit_cast<float>(0x7fffffffu);
  if (std::isinf(x)) return x;
  return simt::bit_cast<float>((simt::bit_cast<uint32_t>(x) + 0x1000) & ~0x1fffu);
}

float fast_exp2(float x) {
  const float y = std::exp2(flush(x));
  return flush(y + y * error(x, 0x1p-22f));
}
float fast_log2(float x) {
  const float y = std::log2(flush(x));
  return std::isinf(y) ? y : y + (x > 0.5f && x < 2 ? 1 : y) * error(x, 0x1p-22f);
}
float fast_sqrt(float x) {
  const float y = std::sqrt(flush(x));
  return std::isinf(y) ? y : y + y * error(x, 0x1p-23f);
}

}  // namespace multimix
