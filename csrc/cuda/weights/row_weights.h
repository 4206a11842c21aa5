// Rows of raw gammas become rows of weights: weighted by attention, summed, scaled, rounded.
//
// Cost of an element without attention: two reads and a write of shared memory, 8 lane-instructions, and 80 for each
// row of a lane; attention adds two reads of global memory and about 12 lane-instructions.
#pragma once

#include "cuda/device/elements.h"
#include "cuda/device/team.h"
#include "cuda/weights/gamma.h"

namespace multimix {

// Four neighbours of a row.
template <class T>
struct __align__(4 * sizeof(T)) Quad {
  T x[4];
};

template <class T>
MULTIMIX_DEVICE Quad<T> load_quad(const T* row, int quad) {
  return *reinterpret_cast<const Quad<T>*>(row + quad * 4);
}
template <class T>
MULTIMIX_DEVICE void store_quad(T* row, int quad, const Quad<T>& values) {
  *reinterpret_cast<Quad<T>*>(row + quad * 4) = values;
}
MULTIMIX_DEVICE float sum_of(const Quad<float>& q) { return (q.x[0] + q.x[1]) + (q.x[2] + q.x[3]); }

// The least weight but zero as a float16 operand, so that it is seen times a mask.
constexpr float kLeastHalfWeight = 0x1p-22f;

// Rounds and stores; returns the rounded values. Those above zero are `least` at least, in float16.
template <Operand operand>
MULTIMIX_DEVICE Quad<float> store_rounded(Element<operand>* row, int quad, Quad<float> values, float least) {
  Quad<float> rounded;
  if constexpr (operand == Operand::kF16) {
#pragma unroll
    for (int k = 0; k < 4; ++k) values.x[k] = values.x[k] > 0 ? fmaxf(values.x[k], least) : values.x[k];
  }
  if constexpr (sizeof(Element<operand>) == 2) {
    const uint2 bits{pack<Element<operand>>(values.x[0], values.x[1]),
                     pack<Element<operand>>(values.x[2], values.x[3])};
    *reinterpret_cast<uint2*>(row + quad * 4) = bits;
    const uint32_t halves[4] = {bits.x & 0xFFFFu, bits.x >> 16, bits.y & 0xFFFFu, bits.y >> 16};
#pragma unroll
    for (int k = 0; k < 4; ++k) rounded.x[k] = to_float(Element<operand>{uint16_t(halves[k])});
  } else {
#pragma unroll
    for (int k = 0; k < 4; ++k) rounded.x[k] = round_operand<operand>(values.x[k]);
    store_quad(row, quad, rounded);
  }
  return rounded;
}

// How rows of weights lie in memory: each aligned to four elements, or one after the other without a gap.
enum class RowLayout { kAligned, kDense };
// What multiplies the gammas of a row.
enum class Factor { kNone, kAttention };

// Where rows of weights go: (rows, width) operands, b padded with zeros to width; each row sums to about one.
template <Operand operand>
struct WeightTile {
  Element<operand>* at;
  int pitch, width;
  // (rows) 1 / the sum of the row's rounded weights, 0 for a row of zeros (past n, or every example ignored); or null.
  float* inverse = nullptr;
  // (rows, width) lambda_i / sum(a lambda): mu's derivative by the attention up to centring, zero where a row has no
  // attention at all; or null.
  float* plain = nullptr;
  int plain_pitch = 0;

  MULTIMIX_DEVICE WeightTile from(int row) const {
    return {at + int64_t(row) * pitch,
            pitch,
            width,
            inverse ? inverse + row : nullptr,
            plain ? plain + int64_t(row) * plain_pitch : nullptr,
            plain_pitch};
  }
};

template <Operand operand, Arithmetic arithmetic>
struct RowWeights {
  using R = Raw<arithmetic>;
  static constexpr bool kLog = arithmetic == Arithmetic::kLogSpace;

  const Draw& draw;
  const Team<>& team;
  const float* attention;  // of the location, or null
  float largest;           // of the attention, if all rows have the same examples
  R* raw;
  int pitch;
  const uint8_t* sets;  // null: all examples

  // Attention as multiplied: relative to the row's largest, so that products of small attention and small gammas do not
  // vanish. `rise` keeps the reciprocal of the smallest numbers finite.
  struct Relative {
    float rise, scale;
    bool dead;  // no example has attention, and all count the same
  };
  MULTIMIX_DEVICE static Relative relative(float most) {
    if (most == 0) return {1, 1, true};
    const float rise = most < 0x1p-64f ? 0x1p64f : 1.0f;
    return {rise, 1.0f / (most * rise), false};
  }

  MULTIMIX_DEVICE Quad<float> load_attention(int quad) const {
    Quad<float> a;
#pragma unroll
    for (int k = 0; k < 4; ++k) a.x[k] = quad * 4 + k < draw.b ? attention[quad * 4 + k] : 0.0f;
    return a;
  }

  // Attention times variates, as raw numbers.
  template <Factor factor>
  MULTIMIX_DEVICE Quad<R> attend(Quad<R> x, int quad, const Relative& r) const {
    if constexpr (factor == Factor::kAttention) {
      const Quad<float> a = load_attention(quad);
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const float risen = r.dead ? 1.0f : a.x[k] * r.rise;
        if constexpr (kLog) {
          const float own = risen * r.scale;
          x.x[k] = x.x[k] == kLogZero || own == 0 ? kLogZero : x.x[k] + fixed_log2(own);
        } else {
          x.x[k] = x.x[k] * risen * r.scale;  // in this order: outside the row's subset the factor may be infinite
        }
      }
    }
    return x;
  }

  // Raw numbers as floats, in log space relative to 2^top.
  MULTIMIX_DEVICE static Quad<float> numbers(const Quad<R>& x, int32_t top) {
    if constexpr (kLog) {
      Quad<float> result;
#pragma unroll
      for (int k = 0; k < 4; ++k) result.x[k] = x.x[k] == kLogZero ? 0.0f : fixed_exp2(x.x[k], top);
      return result;
    } else {
      return x;
    }
  }

  MULTIMIX_DEVICE static Quad<float> times(Quad<float> q, float factor) {
#pragma unroll
    for (int k = 0; k < 4; ++k) q.x[k] *= factor;
    return q;
  }

  // The same where the factor may be infinite: zero stays zero.
  MULTIMIX_DEVICE static Quad<float> times_any(Quad<float> q, float factor) {
#pragma unroll
    for (int k = 0; k < 4; ++k) q.x[k] = q.x[k] == 0 ? 0.0f : q.x[k] * factor;
    return q;
  }

  // The lanes of a row, and where its elements are.
  struct Row {
    int rank, stride, lanes;
    int quads;  // of elements, none in a row past the last
    R* from;
    Element<operand>* to;
    float* plain;  // or null
    float least;   // zero where rows are the result, and no operand of a product
  };

  // The largest attention of all examples, or of a set.
  MULTIMIX_DEVICE float largest_attention(const uint8_t* set, const Row& row) const {
    float result = 0;
#pragma unroll 1
    for (int quad = row.rank; quad < row.quads; quad += row.stride) {
      const Quad<float> a = load_attention(quad);
      const uint32_t in = set ? set[quad] : 15;
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (in >> k & 1) result = fmaxf(result, a.x[k]);
    }
    return team.reduce(result, Larger(), row.lanes);
  }

  // Scales, rounds and stores a row; the sum of what is stored.
  template <Factor factor, RowLayout layout>
  MULTIMIX_DEVICE float weigh(const Row& row, const Relative& r) const {
    int32_t top = kLogZero;
    if constexpr (kLog) {
#pragma unroll 1
      for (int quad = row.rank; quad < row.quads; quad += row.stride) {
        const Quad<R> x = attend<factor>(load_quad(row.from, quad), quad, r);
        top = max(max(top, max(x.x[0], x.x[1])), max(x.x[2], x.x[3]));
      }
      top = team.reduce(top, Larger(), row.lanes);
    }
    float total = 0;
#pragma unroll 2
    for (int quad = row.rank; quad < row.quads; quad += row.stride)
      total += sum_of(numbers(attend<factor>(load_quad(row.from, quad), quad, r), top));
    total = team.reduce(total, Add(), row.lanes);
    const float unit = total == 0 ? 1.0f : __fdividef(1.0f, total);
    const float plain_unit = r.dead ? 0.0f : unit * r.scale * r.rise;
    float rounded = 0;
#pragma unroll 2
    for (int quad = row.rank; quad < row.quads; quad += row.stride) {
      const Quad<R> x = load_quad(row.from, quad);
      const Quad<float> mu = times(numbers(attend<factor>(x, quad, r), top), unit);
      if constexpr (layout == RowLayout::kAligned) {
        rounded += sum_of(store_rounded<operand>(row.to, quad, mu, row.least));
        if (row.plain) store_quad(row.plain, quad, times_any(numbers(x, top), plain_unit));
      } else {
        store_quad(reinterpret_cast<float*>(row.from), quad, mu);
      }
    }
    return layout == RowLayout::kAligned ? team.reduce(rounded, Add(), row.lanes) : 0;
  }

  // `count` rows, of which the first `valid` are real; see draw_rows. Lanes take four elements at a time, 8 lanes to a
  // short row: the order of its sum depends on its length only.
  template <RowLayout layout>
  MULTIMIX_DEVICE void finish(int count, int valid, const WeightTile<operand>& to) const {
    const int lanes = pitch <= 256 ? 8 : kWarp, stride = team.whole ? team.size : lanes;
    const int at_once = team.whole ? 1 : kWarp / lanes, own = team.rank / stride;
#pragma unroll 1
    for (int start = 0; start < count; start += at_once) {
      const int k = start + own;
      const Row row{team.rank % stride,
                    stride,
                    lanes,
                    k < valid ? pitch / 4 : 0,
                    raw + k * pitch,
                    to.at + int64_t(k) * to.pitch,
                    to.plain ? to.plain + int64_t(k) * to.plain_pitch : nullptr,
                    to.inverse ? kLeastHalfWeight : 0.0f};
      float rounded;
      if (attention) {
        const float most = sets ? largest_attention(sets + k * (pitch / 4), row) : largest;
        rounded = weigh<Factor::kAttention, layout>(row, relative(most));
      } else {
        rounded = weigh<Factor::kNone, layout>(row, Relative{1, 1, false});
      }
      if constexpr (layout == RowLayout::kAligned) {
        if (k >= count) continue;
#pragma unroll 1
        for (int quad = row.quads + row.rank; quad < to.width / 4; quad += stride) {
          store_rounded<operand>(row.to, quad, {}, 0);
          if (to.plain) store_quad(row.plain, quad, {});
        }
        if (to.inverse && row.rank == 0) to.inverse[k] = rounded == 0 ? 0.0f : __fdividef(1.0f, rounded);
      }
    }
    if constexpr (layout == RowLayout::kDense) write_dense(count, to.at);
  }

  // Normalised rows, one after the other without a gap.
  MULTIMIX_DEVICE void write_dense(int rows, Element<operand>* out) const {
    team.sync();
    const float* from = reinterpret_cast<const float*>(raw);
    const uint32_t reciprocal = 0xFFFFFFFFu / uint32_t(draw.b) + 1;
    for (int i = team.rank; i < rows * draw.b; i += team.size) {
      const int row = draw.b == 1 ? i : int(__umulhi(uint32_t(i), reciprocal));
      out[i] = round_operand<operand>(from[row * pitch + i - row * draw.b]);
    }
  }
};

}  // namespace multimix
