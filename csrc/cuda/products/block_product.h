// Matrix products of one block of eight warps: tiles of operands in shared memory, accumulators in registers.
#pragma once

#include "cuda/host/jobs.h"
#include "cuda/products/fragments.h"

namespace multimix {

// A tile of the output, rows x columns, is the sum of products over steps of `depth`; of the right operand `stages`
// steps are in shared memory at a time, of the left one `slots` (all of them where they suffice for a whole row tile).
struct BlockShape {
  int rows, columns, depth, stages, slots;
};
constexpr BlockShape block_shape(Operand operand) {
  return operand == Operand::kFP32   ? BlockShape{64, 64, 32, 2, 2}
         : operand == Operand::kTF32 ? BlockShape{128, 64, 32, 2, 2}
                                     : BlockShape{128, 128, 32, 3, 4};
}
constexpr int kBlockThreads = 256;  // warps: four by two

template <Operand operand>
struct BlockTile {
  static constexpr BlockShape kShape = block_shape(operand);
  static_assert(kRowTile % kShape.rows == 0);
  static constexpr int kVector = 16 / sizeof(Element<operand>);  // elements of one access
  // Behind each row, so that the lanes of a fragment's load meet no bank twice.
  static constexpr int kPad = 8, kTransposedPad = sizeof(Element<operand>) == 2 ? 8 : 4;
};

// A contiguous or padded operand in device memory, rows 16-byte aligned; beyond its rows and columns it reads as zero.
template <class T>
struct OperandMatrix {
  const T* data;
  int64_t place;  // elements from place to place
  int pitch;      // elements from row to row
  int rows, columns;
  const bool* skip;  // rows that read as zero whatever they hold, or null

  MULTIMIX_DEVICE OperandMatrix at(int64_t index) const {
    return {data + index * place, place, pitch, rows, columns, skip};
  }
};

// Starts the copy of a tile of height x width to shared memory, by all threads of the block. `whole`: all its rows
// exist.
template <int height, int width, bool whole = false, class T>
MULTIMIX_DEVICE void copy_tile(T* tile, int tile_pitch, const OperandMatrix<T>& from, int first_row, int first_column) {
  constexpr int kVector = 16 / sizeof(T), kAcross = width / kVector, kStep = kBlockThreads / kAcross;
  static_assert(kBlockThreads % kAcross == 0 && height % kStep == 0);
  const int row = threadIdx.x / kAcross, column = threadIdx.x % kAcross * kVector;
  const int left = min(max(from.columns - first_column - column, 0), kVector) * int(sizeof(T));
  const T* source = from.data + (left > 0 ? first_column + column : 0);
#pragma unroll
  for (int k = 0; k < height / kStep; ++k) {
    const int at = first_row + row + k * kStep;
    bool inside = whole || at < from.rows;
    if (!whole && from.skip) inside = inside && !from.skip[at];
    copy_async(tile + (row + k * kStep) * tile_pitch + column, inside ? source + int64_t(at) * from.pitch : source,
               inside ? left : 0);
  }
}

// The accumulators of one output tile.
template <Operand operand>
struct Accumulators {
  using P = Product<operand>;
  using T = Element<operand>;
  static constexpr BlockShape kShape = block_shape(operand);
  static constexpr int kM = kShape.rows / 64, kN = kShape.columns / 16;  // fragments of a warp, 16 x 8 each
  float d[kM][kN][4];

  MULTIMIX_DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) d[m][n][e] = 0;
  }

  // The row of d[m][.][2 half], and the column of d[.][n][0], in the tile.
  static MULTIMIX_DEVICE int row(int m, int half) {
    return int(threadIdx.x / kWarp / 2) * (kM * 16) + m * 16 + half * 8 + lane_row();
  }
  static MULTIMIX_DEVICE int column(int n) { return side() * (kN * 8) + n * 8 + lane_column(); }
  // Which half of the columns the warp has.
  static MULTIMIX_DEVICE int side() { return threadIdx.x / kWarp % 2; }

  // Adds the product of one step. Element (m, k) of the left tile is a[m * pitch + k], or a[k * pitch + m] if
  // transposed; element (k, n) of the right one b[n * pitch + k], or b[k * pitch + n] if transposed.
  template <bool a_transposed, bool b_transposed>
  MULTIMIX_DEVICE void add(const T* a, int a_pitch, const T* b, int b_pitch) {
    const int top = threadIdx.x / kWarp / 2 * (kM * 16), left = side() * (kN * 8);
#pragma unroll
    for (int k = 0; k < kShape.depth; k += 16) {
      typename P::A fa[kM];
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        if constexpr (a_transposed) {
          P::load_a_transposed(fa[m], a + k * a_pitch + top + m * 16, a_pitch);
        } else {
          P::load_a(fa[m], a + (top + m * 16) * a_pitch + k, a_pitch);
        }
      }
#pragma unroll
      for (int n = 0; n < kN; n += 2) {
        typename P::B fb[2];
        if constexpr (b_transposed) {
          P::load_b_transposed(fb, b + k * b_pitch + left + n * 8, b_pitch);
        } else {
          P::load_b(fb, b + (left + n * 8) * b_pitch + k, b_pitch);
        }
#pragma unroll
        for (int m = 0; m < kM; ++m) {
          P::add(d[m][n], fa[m], fb[0]);
          P::add(d[m][n + 1], fa[m], fb[1]);
        }
      }
    }
  }
};

// Lanes of a quad hold two neighbours each in the fragments n and n + 1; then each has four neighbours of one of them:
// even lanes columns 2t ... 2t + 3 of n, odd ones 2t - 2 ... 2t + 1 of n + 1. By a whole warp.
MULTIMIX_DEVICE float4 gather_four(float2 left, float2 right) {
  const bool odd = threadIdx.x % 2;
  const float2 sent = odd ? left : right;
  const float2 got = {__shfl_xor_sync(kAllLanes, sent.x, 1), __shfl_xor_sync(kAllLanes, sent.y, 1)};
  return odd ? float4{got.x, got.y, right.x, right.y} : float4{left.x, left.y, got.x, got.y};
}
// The first of the four columns, relative to the start of fragment n.
MULTIMIX_DEVICE int four_column() { return threadIdx.x % 2 ? 8 + lane_column() - 2 : lane_column(); }

// Lanes of a quad hold two 16-bit neighbours each in four fragments; then lane t has all eight of fragment t.
MULTIMIX_DEVICE uint4 gather_eight(const uint32_t (&pairs)[4]) {
  const bool odd = threadIdx.x % 2, high = threadIdx.x % 4 >= 2;
  uint2 halves[2];  // of the fragments 0 or 1, and 2 or 3
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
