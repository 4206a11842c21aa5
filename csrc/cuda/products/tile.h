// products/: matrix products on tensor cores, of warps (fragments.h) and of blocks (this file), whose operands come
// from device memory (copies.h, operands.h, pack.h); and two whole products (columns.h, rows.h). May include host/ and
// device/ only. Letters: of a block's result (i, j) at depth k; of a lane in its warp's tile row q and pair of columns
// p; of operands, places are the locations of a block of rows (host/jobs.h).
//
// A block multiplies tiles in shared memory; two warps lie beside each other in a tile of the result, the others below.
// An operand lies in one of two ways: `along`, its rows run along the depth of the product; `across`, they run across
// it. For each 16 x 8 x 16 product in 16 bits, a warp of 64 x 64 reads 128 bytes of shared memory, one of 32 x 64 192.
#pragma once

#include "cuda/host/jobs.h"
#include "cuda/products/fragments.h"

namespace multimix {

constexpr int kWarpColumns = 2;  // warps beside each other in a tile

// Elements behind each row of a tile, so that no load of a fragment meets a bank twice.
constexpr int kAlongPad = 8;
template <Operand operand>
constexpr int kAcrossPad = Product<operand>::kPad;

// load(s, buffer) starts the copies of stage s; use(s, buffer) reads it while those of the next stages are under way,
// kStages - 1 of them. Ends with a barrier.
template <int kStages = 2, class Load, class Use>
MULTIMIX_DEVICE void run_stages(int count, Load load, Use use) {
  constexpr int kAhead = kStages - 1;
#pragma unroll
  for (int s = 0; s < kAhead; ++s) {
    if (s < count) load(s, s);
    commit_copies();
  }
  for (int s = 0; s < count; ++s) {
    wait_copies<kAhead - 1>();
    __syncthreads();
    if (s + kAhead < count) load(s + kAhead, int(unsigned(s + kAhead) % kStages));
    commit_copies();
    use(s, int(unsigned(s) % kStages));
  }
  __syncthreads();
}

// A warp's part of a block's result: (16 m, 8 n), in registers. A lane has 2 m rows, 8 apart, and n pairs of
// neighbours in each of them, 8 apart.
template <Operand operand, int m, int n, class P = Product<operand>>
struct WarpTile {
  using T = Element<operand>;
  static constexpr int kRows = 2 * m, kPairs = n;  // of a lane
  float at[m][n][4];

  // Where the warp's part begins in the block's tile, and a lane's.
  static MULTIMIX_DEVICE int warp_row() { return int(threadIdx.x / kWarp / kWarpColumns) * (m * 16); }
  static MULTIMIX_DEVICE int warp_column() { return side() * (n * 8); }
  static MULTIMIX_DEVICE int first_row() { return warp_row() + lane_row(); }
  static MULTIMIX_DEVICE int first_column() { return warp_column() + lane_column(); }
  // Which of the warps beside each other.
  static MULTIMIX_DEVICE int side() { return int(threadIdx.x / kWarp % kWarpColumns); }

  // visit(q): the lane's row 8 q after its first.
  template <class Visit>
  static MULTIMIX_DEVICE void for_rows(Visit visit) {
#pragma unroll
    for (int q = 0; q < kRows; ++q) visit(q);
  }
  // visit(p), p = 0, step ...: the lane's pair 8 p columns after its first.
  template <int step = 1, class Visit>
  static MULTIMIX_DEVICE void for_pairs(Visit visit) {
#pragma unroll
    for (int p = 0; p < kPairs; p += step) visit(p);
  }
  // Those of the warp's first `columns` columns, a multiple of 8, which may be more than it has.
  template <class Visit>
  static MULTIMIX_DEVICE void for_pairs_within(int columns, Visit visit) {
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      if (p * 8 >= columns) break;
      visit(p);
    }
  }
  // visit(q, p) of the pairs within `rows`, a multiple of 16, and `columns`.
  template <class Visit>
  static MULTIMIX_DEVICE void for_pairs_within(int rows, int columns, Visit visit) {
#pragma unroll
    for (int i = 0; i < m; ++i) {
      if (i * 16 >= rows) break;
      for_pairs_within(columns, [&](int p) { visit(2 * i, p), visit(2 * i + 1, p); });
    }
  }
  MULTIMIX_DEVICE float2 pair(int q, int p) const { return {at[q / 2][p][q % 2 * 2], at[q / 2][p][q % 2 * 2 + 1]}; }
  MULTIMIX_DEVICE float& element(int q, int p, int e) { return at[q / 2][p][q % 2 * 2 + e]; }

  // visit(column, x) of the lane's elements of a row; columns count from its first.
  template <class Visit>
  MULTIMIX_DEVICE void for_each(int q, Visit visit) {
    for_pairs([&](int p) { visit(p * 8, element(q, p, 0)), visit(p * 8 + 1, element(q, p, 1)); });
  }
  // Over the lane's elements of a row.
  MULTIMIX_DEVICE float row_max(int q, float most) const {
    for_pairs([&](int p) { most = fmaxf(most, fmaxf(pair(q, p).x, pair(q, p).y)); });
    return most;
  }
  template <class Function>
  MULTIMIX_DEVICE float row_sum(int q, Function function) const {
    float sum = 0;
    for_pairs([&](int p) { sum += function(pair(q, p).x) + function(pair(q, p).y); });
    return sum;
  }

  // Whether all of the lane's elements are: an operation each.
  MULTIMIX_DEVICE bool all_finite() const {
    float zero = 0;
    for_rows([&](int q) { for_pairs([&](int p) { zero += pair(q, p).x * 0.0f, zero += pair(q, p).y * 0.0f; }); });
    return zero == 0;
  }

  MULTIMIX_DEVICE void clear() {
    for_rows([&](int q) { for_each(q, [](int, float& x) { x = 0; }); });
  }

  // += a b over `depth` elements, a multiple of 16, of the block's tiles. Element (i, k) of a is a[i * pitch + k], or
  // `across` a[k * pitch + i]; element (k, j) of b is b[j * pitch + k], or `across` b[k * pitch + j].
  template <bool across_a, bool across_b, int kUnroll = 1>
  MULTIMIX_DEVICE void multiply(const T* a, int a_pitch, const T* b, int b_pitch, int depth) {
    a += across_a ? warp_row() : warp_row() * a_pitch;
    b += across_b ? warp_column() : warp_column() * b_pitch;
#pragma unroll kUnroll
    for (int k = 0; k < depth; k += 16) {
      typename P::A left[m];
#pragma unroll
      for (int i = 0; i < m; ++i) {
        if constexpr (across_a)
          P::load_a_transposed(left[i], a + k * a_pitch + i * 16, a_pitch);
        else
          P::load_a(left[i], a + i * 16 * a_pitch + k, a_pitch);
      }
      for_pairs<2>([&](int j) {
        typename P::B right[2];
        if constexpr (across_b)
          P::load_b_transposed(right, b + k * b_pitch + j * 8, b_pitch);
        else
          P::load_b(right, b + j * 8 * b_pitch + k, b_pitch);
#pragma unroll
        for (int i = 0; i < m; ++i) {
          P::add(at[i][j], left[i], right[0]);
          P::add(at[i][j + 1], left[i], right[1]);
        }
      });
    }
  }
};

// The tile of columns.h, rows.h and the values' gradient: eight warps, four by two. Of the right operand `stages` steps
// of `depth` are in shared memory at a time, of the left one `slots` (all of them where they suffice for a whole row
// tile).
struct BlockShape {
  int rows, columns, depth, stages, slots;
};
constexpr BlockShape block_shape(Operand operand) {
  return operand == Operand::kFP32   ? BlockShape{64, 64, 32, 2, 2}
         : operand == Operand::kTF32 ? BlockShape{128, 64, 32, 2, 2}
                                     : BlockShape{128, 128, 32, 3, 4};
}
constexpr int kBlockThreads = 256;

template <Operand operand, class P = Product<operand>>
struct BlockTile {
  static constexpr BlockShape kShape = block_shape(operand);
  static_assert(kRowTile % kShape.rows == 0);
  static constexpr int kVector = 16 / sizeof(Element<operand>);  // elements of one access
  static constexpr int kAlong = kShape.depth + kAlongPad;        // pitches
  static constexpr int kAcrossRows = kShape.rows + kAcrossPad<operand>;
  static constexpr int kAcrossColumns = kShape.columns + kAcrossPad<operand>;
  using Sums = WarpTile<operand, kShape.rows / 64, kShape.columns / 16, P>;
  static constexpr int kUnroll = std::is_same_v<P, Product<operand>> ? kShape.depth / 16 : 1;  // for want of registers

  // sum += a b of one step.
  template <bool across_a, bool across_b>
  static MULTIMIX_DEVICE void multiply(Sums& sum, const Element<operand>* a, int a_pitch, const Element<operand>* b,
                                       int b_pitch) {
    sum.template multiply<across_a, across_b, kUnroll>(a, a_pitch, b, b_pitch, kShape.depth);
  }
};

// The tiles of mixed/: 64 bytes of depth of 128 rows, examples or classes each.
constexpr int kTile = 128;

template <Operand operand>
struct Stage {
  using T = Element<operand>;
  static constexpr int kPiece = 16 / sizeof(T);  // elements of one copy
  static constexpr int kDepth = 64 / sizeof(T);
  static constexpr int kAlong = kDepth + kAlongPad;  // pitches
  static constexpr int kAcross = kTile + kAcrossPad<operand>;
  static constexpr int kAlongSize = kTile * kAlong;
  static constexpr int kAcrossSize = kDepth * kAcross;
};

// Rows of a block that accumulates one result, or two side by side.
constexpr int rows_of_tile(Operand operand, bool two) { return two && operand == Operand::kFP32 ? 64 : 128; }

// By operand and by how many results a block accumulates side by side (`two`): (kRows, kTile) each.
template <Operand operand, bool two>
struct TileShape {
  static constexpr bool kHalf = operand == Operand::kBF16 || operand == Operand::kF16;
  static constexpr int kFragments = kHalf ? (two ? 2 : 4) : (two && operand == Operand::kFP32 ? 1 : 2);
  static constexpr int kRows = rows_of_tile(operand, two);
  static constexpr int kThreads = kRows / (kFragments * 16) * kWarpColumns * kWarp;
  using Sums = WarpTile<operand, kFragments, kTile / kWarpColumns / 8>;
};

// Lanes of a quad hold two neighbours each in the pairs p and p + 1; then each has four neighbours of one of them:
// even lanes columns 2t ... 2t + 3 of p, odd ones 2t - 2 ... 2t + 1 of p + 1. By a whole warp.
MULTIMIX_DEVICE float4 gather_four(float2 left, float2 right) {
  const bool odd = threadIdx.x % 2;
  const float2 sent = odd ? left : right;
  const float2 got = {__shfl_xor_sync(kAllLanes, sent.x, 1), __shfl_xor_sync(kAllLanes, sent.y, 1)};
  return odd ? float4{got.x, got.y, right.x, right.y} : float4{left.x, left.y, got.x, got.y};
}
// The first of the four columns, relative to the warp's column 8 p.
MULTIMIX_DEVICE int four_column() { return threadIdx.x % 2 ? 8 + lane_column() - 2 : lane_column(); }

// Lanes of a quad hold two 16-bit neighbours each in four pairs; then lane t has all eight of the columns of pair t.
MULTIMIX_DEVICE uint4 gather_eight(const uint32_t (&pairs)[4]) {
  const bool odd = threadIdx.x % 2, high = threadIdx.x % 4 >= 2;
  uint2 halves[2];  // of the pairs 0 or 1, and 2 or 3
#pragma unroll
  for (int p = 0; p < 2; ++p) {
    const uint32_t got = __shfl_xor_sync(kAllLanes, odd ? pairs[2 * p] : pairs[2 * p + 1], 1);
    halves[p] = odd ? uint2{got, pairs[2 * p + 1]} : uint2{pairs[2 * p], got};
  }
  const uint2 sent = high ? halves[0] : halves[1];
  const uint2 got = {__shfl_xor_sync(kAllLanes, sent.x, 2), __shfl_xor_sync(kAllLanes, sent.y, 2)};
  return high ? uint4{got.x, got.y, halves[1].x, halves[1].y} : uint4{halves[0].x, halves[0].y, got.x, got.y};
}

}  // namespace multimix
