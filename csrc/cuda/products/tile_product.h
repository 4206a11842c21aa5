// Products of tiles of up to 128 x 128 by one block, whose operands come through shared memory in stages, two at a
// time.
//
// An operand lies in device memory in one of two ways: `along`, its rows run along the depth of the product; `across`,
// they run across it. Each stage holds 64 bytes of depth. A warp of 64 x 64 reads 128 bytes of shared memory for each
// 16x8x16 product, one of 32 x 64 reads 192.
#pragma once

#include "cuda/host/jobs.h"
#include "cuda/products/fragments.h"

namespace multimix {

constexpr int kTile = 128;       // columns
constexpr int kWarpColumns = 2;  // warps beside each other in a tile: 64 columns each

template <Operand operand>
struct Stage {
  using T = Element<operand>;
  static constexpr int kPiece = 16 / sizeof(T);  // elements of one copy
  static constexpr int kDepth = 64 / sizeof(T);
  static constexpr int kAlongPad = 8;                // for reads of two elements, float or not
  static constexpr int kAlong = kDepth + kAlongPad;  // pitches
  static constexpr int kAcross = kTile + Product<operand>::kPad;
  static constexpr int kAlongSize = kTile * kAlong;  // of 128 rows
  static constexpr int kAcrossSize = kDepth * kAcross;
};

// Rows of device memory, aligned to 16 bytes; what lies beyond is zero.
template <class T>
struct Matrix {
  const T* data;
  int64_t pitch;
  int rows, columns;
};

// kRows x kColumns elements from (row, column) to shared memory, by kThreads threads. `index` names row i.
template <int kRows, int kColumns, int kThreads, class T, class Index>
MULTIMIX_DEVICE void copy_rows(T* to, int pitch, const Matrix<T>& from, int row, int column, Index index) {
  constexpr int kPiece = 16 / int(sizeof(T)), kAcross = kColumns / kPiece;
#pragma unroll 1
  for (int start = 0; start < kRows * kAcross; start += kThreads) {
    const int at = start + int(threadIdx.x), i = at / kAcross, j = at % kAcross * kPiece;
    if (kRows * kAcross % kThreads != 0 && at >= kRows * kAcross) break;
    const int source = index(row + i);
    const bool inside = source >= 0 && source < from.rows && column + j < from.columns;
    copy_async(to + i * pitch + j, from.data + (inside ? source * from.pitch + column + j : 0), inside ? 16 : 0);
  }
}

struct SameRow {
  MULTIMIX_DEVICE int operator()(int row) const { return row; }
};

// The row of each example's label; none if it has no class.
struct LabelRow {
  const int64_t* labels;
  int64_t ignore_index;
  int b, c;

  MULTIMIX_DEVICE int operator()(int example) const {
    if (example >= b) return -1;
    const int64_t label = labels[example];
    return label >= 0 && label < c && label != ignore_index ? int(label) : -1;
  }
};

// Targets of labels (examples, classes), written as copy_rows would copy them.
template <Operand operand, int kRows, int kColumns, int kThreads>
MULTIMIX_DEVICE void write_ones(Element<operand>* to, int pitch, const LabelRow& labels, int row, int column) {
  using T = Element<operand>;
  constexpr int kPiece = 16 / int(sizeof(T)), kAcross = kColumns / kPiece, kPerWord = 4 / int(sizeof(T));
  constexpr uint32_t kOne = operand == Operand::kBF16 ? 0x3f80u : operand == Operand::kF16 ? 0x3c00u : 0x3f800000u;
#pragma unroll
  for (int start = 0; start < kRows * kAcross; start += kThreads) {
    const int at = start + int(threadIdx.x), i = at / kAcross, j = at % kAcross * kPiece;
    if (kRows * kAcross % kThreads != 0 && at >= kRows * kAcross) break;
    const int hit = labels(row + i) - (column + j);
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) words[w] = hit >= 0 && hit / kPerWord == w ? kOne << (hit % kPerWord * 16) : 0;
    *reinterpret_cast<uint4*>(to + i * pitch + j) = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// load(s, buffer) starts the copies of stage s; use(s, buffer) reads it while those of the next are under way. Ends
// with a barrier.
template <class Load, class Use>
MULTIMIX_DEVICE void run_stages(int count, Load load, Use use) {
  if (count > 0) load(0, 0);
  commit_copies();
  for (int s = 0; s < count; ++s) {
    wait_copies<0>();
    __syncthreads();
    if (s + 1 < count) load(s + 1, (s + 1) & 1);
    commit_copies();
    use(s, s & 1);
  }
  __syncthreads();
}

// The accumulators of a warp: kFragments x 16 rows by 64 columns.
template <int kFragments>
struct WarpTile {
  float at[kFragments][8][4];

  MULTIMIX_DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < kFragments; ++m)
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) at[m][n][e] = 0;
  }
};

// Where this warp's part of a tile begins, and a lane's first row and column in it.
template <int kFragments>
MULTIMIX_DEVICE int warp_row() {
  return int(threadIdx.x) / kWarp / kWarpColumns * kFragments * 16;
}
MULTIMIX_DEVICE int warp_column() { return int(threadIdx.x) / kWarp % kWarpColumns * (kTile / kWarpColumns); }

// tile += a b over `depth` elements, a multiple of 16; a and b begin at this warp's rows and columns. kAcross: an
// operand whose rows run across the depth.
template <Operand operand, bool kAcrossA, bool kAcrossB, int kFragments>
MULTIMIX_DEVICE void multiply(WarpTile<kFragments>& tile, const Element<operand>* a, int a_pitch,
                              const Element<operand>* b, int b_pitch, int depth) {
  using P = Product<operand>;
#pragma unroll 1
  for (int k = 0; k < depth; k += 16) {
    typename P::A left[kFragments];
#pragma unroll
    for (int m = 0; m < kFragments; ++m) {
      if constexpr (kAcrossA)
        P::load_a_transposed(left[m], a + k * a_pitch + m * 16, a_pitch);
      else
        P::load_a(left[m], a + m * 16 * a_pitch + k, a_pitch);
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      typename P::B right[2];
      if constexpr (kAcrossB)
        P::load_b_transposed(right, b + k * b_pitch + n * 16, b_pitch);
      else
        P::load_b(right, b + n * 16 * b_pitch + k, b_pitch);
#pragma unroll
      for (int m = 0; m < kFragments; ++m) {
        P::add(tile.at[m][2 * n], left[m], right[0]);
        P::add(tile.at[m][2 * n + 1], left[m], right[1]);
      }
    }
  }
}

// The shape of a block's tile, by operand and by how many of them it accumulates side by side (`two`).
template <Operand operand, bool two>
struct TileShape {
  static constexpr bool kHalf = operand == Operand::kBF16 || operand == Operand::kF16;
  static constexpr int kFragments = kHalf ? (two ? 2 : 4) : (two && operand == Operand::kFP32 ? 1 : 2);
  static constexpr int kRows = two && operand == Operand::kFP32 ? 64 : 128;
  static constexpr int kThreads = kRows / (kFragments * 16) * kWarpColumns * kWarp;
};

}  // namespace multimix
