// Matrix products of one warp on tensor cores, in one shape for every operand type: tiles 16 x 16 by 16 x 8.
//
// Operands lie in shared memory, rows `pitch` elements apart; kPad elements behind each row keep accesses free of bank
// conflicts. Float32 has no matrix instruction: an operand is split into two TF32 numbers (22 of its 24 bits), and
// three products are added in float32, so that no sum is kept in the truncating accumulator of the tensor cores. What
// that cuts off still makes every result smaller, by 1.5e-7 on sm_80 and 1.1e-7 on sm_90. `unbiased` products, for
// results that are added up over many rows, lose 1e-8, for one instruction more for each left element and four
// additions more for each product of fragments.
#pragma once

#include <type_traits>

#include "cuda/device/elements.h"

namespace multimix {

// Row g and column pair t of a lane in a fragment.
MULTIMIX_DEVICE int lane_row() { return int(threadIdx.x % kWarp) / 4; }
MULTIMIX_DEVICE int lane_column() { return int(threadIdx.x % 4) * 2; }

template <Operand operand>
struct Product {
  using T = Element<operand>;
  static constexpr int kPad = 8;

  struct A {  // 16 x 16
    uint32_t r[4];
  };
  struct B {  // 16 x 8
    uint32_t r[2];
  };

  // Element (m, k) is tile[m * pitch + k].
  static MULTIMIX_DEVICE void load_a(A& a, const T* tile, int pitch) {
    const int lane = threadIdx.x % kWarp;
    load_matrices(a.r, tile + (lane % 16) * pitch + lane / 16 * 8);
  }
  // Element (m, k) is tile[k * pitch + m].
  static MULTIMIX_DEVICE void load_a_transposed(A& a, const T* tile, int pitch) {
    const int lane = threadIdx.x % kWarp;
    load_matrices_transposed(a.r, tile + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
  }
  // Two fragments, columns 0-7 and 8-15. Element (k, n) is tile[n * pitch + k].
  static MULTIMIX_DEVICE void load_b(B (&b)[2], const T* tile, int pitch) {
    const int lane = threadIdx.x % kWarp;
    uint32_t r[4];
    load_matrices(r, tile + (lane % 8 + lane / 16 * 8) * pitch + lane / 8 % 2 * 8);
    b[0] = {{r[0], r[1]}}, b[1] = {{r[2], r[3]}};
  }
  // Two fragments. Element (k, n) is tile[k * pitch + n].
  static MULTIMIX_DEVICE void load_b_transposed(B (&b)[2], const T* tile, int pitch) {
    const int lane = threadIdx.x % kWarp;
    uint32_t r[4];
    load_matrices_transposed(r, tile + (lane % 16) * pitch + lane / 16 * 8);
    b[0] = {{r[0], r[1]}}, b[1] = {{r[2], r[3]}};
  }
  // The accumulators of columns 0-7 and 8-15 as a left operand.
  static MULTIMIX_DEVICE void from_accumulators(A& a, const float (&left)[4], const float (&right)[4]) {
    a.r[0] = pack<T>(left[0], left[1]), a.r[1] = pack<T>(left[2], left[3]);
    a.r[2] = pack<T>(right[0], right[1]), a.r[3] = pack<T>(right[2], right[3]);
  }
  static MULTIMIX_DEVICE void add(float (&d)[4], const A& a, const B& b) { mma_16x8x16<T>(d, a.r, b.r); }
};

// Within each eight, slot t of the instruction's depth is element 2t and slot t + 4 is element 2t + 1, in both
// operands: so accumulators are left operands as they are, and rows are read two elements at a time.
template <bool split, bool unbiased = false>
struct FloatProduct {
  using T = float;
  static constexpr int kPad = 4;
  static constexpr int kParts = split ? 2 : 1;

  struct A {
    float r[kParts][2][4];
  };
  struct B {
    float r[kParts][2][2];
  };

  static MULTIMIX_DEVICE float cut(float x) { return __uint_as_float(__float_as_uint(x) & 0xffffe000u); }

  template <class Fragment>
  static MULTIMIX_DEVICE void put(Fragment& f, int half, int slot, float x) {
    if constexpr (unbiased && std::is_same_v<Fragment, A>) {
      // The low halves' product is left out. If high halves were cut in both operands it would have the sign of the
      // others: here low halves have either sign. Nothing is rounded beyond the range, and NaN stays NaN.
      const float power = __uint_as_float(__float_as_uint(x) & 0xff800000u);
      const float high = cut(__fmaf_rz(power, 0x1p-11f, x));
      f.r[0][half][slot] = high, f.r[1][half][slot] = cut(x - high);
    } else if constexpr (split) {
      // The high half is cut, not rounded: one instruction, and NaN stays NaN.
      const float high = cut(x);
      f.r[0][half][slot] = high;
      f.r[1][half][slot] = __uint_as_float((__float_as_uint(x - high) + 0x1000u) & 0xffffe000u);
    } else {
      f.r[0][half][slot] = x;
    }
  }
  static MULTIMIX_DEVICE void load_a(A& a, const T* tile, int pitch) {
    const T* at = tile + lane_row() * pitch + lane_column();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 top = *reinterpret_cast<const float2*>(at + half * 8);
      const float2 bottom = *reinterpret_cast<const float2*>(at + half * 8 + 8 * pitch);
      put(a, half, 0, top.x), put(a, half, 1, bottom.x), put(a, half, 2, top.y), put(a, half, 3, bottom.y);
    }
  }
  static MULTIMIX_DEVICE void load_a_transposed(A& a, const T* tile, int pitch) {
    const T* at = tile + lane_column() * pitch + lane_row();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const T* row = at + half * 8 * pitch;
      put(a, half, 0, row[0]), put(a, half, 1, row[8]), put(a, half, 2, row[pitch]), put(a, half, 3, row[pitch + 8]);
    }
  }
  static MULTIMIX_DEVICE void load_b(B (&b)[2], const T* tile, int pitch) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const float2 pair =
            *reinterpret_cast<const float2*>(tile + (n * 8 + lane_row()) * pitch + half * 8 + lane_column());
        put(b[n], half, 0, pair.x), put(b[n], half, 1, pair.y);
      }
  }
  static MULTIMIX_DEVICE void load_b_transposed(B (&b)[2], const T* tile, int pitch) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const T* at = tile + (half * 8 + lane_column()) * pitch + n * 8 + lane_row();
        put(b[n], half, 0, at[0]), put(b[n], half, 1, at[pitch]);
      }
  }
  static MULTIMIX_DEVICE void from_accumulators(A& a, const float (&left)[4], const float (&right)[4]) {
    const float slots[2][4] = {{left[0], left[2], left[1], left[3]}, {right[0], right[2], right[1], right[3]}};
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int slot = 0; slot < 4; ++slot)
        put(a, half, slot, split ? slots[half][slot] : round_tf32(slots[half][slot]));
  }
  static MULTIMIX_DEVICE void add(float (&d)[4], const A& a, const B& b) {
    if constexpr (split) {
      float sum[4] = {0, 0, 0, 0};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mma_16x8x8(sum, a.r[1][half], b.r[0][half]);
        mma_16x8x8(sum, a.r[0][half], b.r[1][half]);
      }
      mma_16x8x8(sum, a.r[0][0], b.r[0][0]);
      if constexpr (unbiased) {
        // A product that is added to a sum of its size is cut off once more.
#pragma unroll
        for (int i = 0; i < 4; ++i) d[i] += sum[i], sum[i] = 0;
      }
      mma_16x8x8(sum, a.r[0][1], b.r[0][1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) d[i] += sum[i];
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half) mma_16x8x8(d, a.r[0][half], b.r[0][half]);
    }
  }
};
template <>
struct Product<Operand::kTF32> : FloatProduct<false> {};
template <>
struct Product<Operand::kFP32> : FloatProduct<true> {};

template <Operand operand>
using UnbiasedProduct = std::conditional_t<operand == Operand::kFP32, FloatProduct<true, true>, Product<operand>>;

}  // namespace multimix
