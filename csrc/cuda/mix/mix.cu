// mix/: mixed embeddings, forward (this file) and backward. May include every room below: host/, device/, weights/,
// products/, sums/.
//
// Mixed embeddings: out (r, n, d) = mu values.
//
// Super-blocks of rows: their weights are drawn into a scratch in the L2 cache, and multiply the values on tensor
// cores. Bytes: the values once for each wave of row tiles from the L2 cache, d elements of a row written, whole
// sectors at a time. Operations: 2 b d for each row. Bound by memory below a b of about 200 in 16 bits.
#include "cuda/host/dispatch.h"
#include "cuda/host/memory.h"
#include "cuda/launchers.h"
#include "cuda/products/columns.h"

namespace multimix {
namespace {

// Divides a tile by its weights' sums, and writes it. Lanes of a quad trade elements, so that each stores 16 bytes.
template <Operand operand>
struct WriteMixed {
  using T = Element<operand>;
  using Sums = typename BlockTile<operand>::Sums;
  const float* inverse;  // (places, stored)
  T* out;
  int64_t n, first;
  int first_location, rows, stored, d;
  bool aligned;  // rows of the output are

  static constexpr int kOwn = 1;
  static constexpr bool kCareful = true;
  MULTIMIX_DEVICE void begin(float*) const {}
  MULTIMIX_DEVICE void end(const float*, int, int, int) const {}

  MULTIMIX_DEVICE void tile(float*, const Sums& sum, int place, int row_tile, int column_tile) const {
    constexpr BlockShape kShape = BlockTile<operand>::kShape;
    const int left = column_tile * kShape.columns + Sums::warp_column();
    Sums::for_rows([&](int q) {
      const int row = row_tile * kShape.rows + Sums::first_row() + q * 8;
      const float scale = inverse[int64_t(place) * stored + row];
      const bool real = row < rows;
      T* to = row_of(place, row);
      if constexpr (sizeof(T) == 2) {
        Sums::template for_pairs<4>([&](int p) {
          uint32_t pairs[4];
#pragma unroll
          for (int k = 0; k < 4; ++k) pairs[k] = pack<T>(sum.pair(q, p + k).x * scale, sum.pair(q, p + k).y * scale);
          const uint4 eight = gather_eight(pairs);
          if (real) store(to, left + p * 8 + int(threadIdx.x % 4) * 8, eight);
        });
      } else {
        Sums::template for_pairs<2>([&](int p) {
          const float2 one = sum.pair(q, p), other = sum.pair(q, p + 1);
          const float4 four = gather_four({one.x * scale, one.y * scale}, {other.x * scale, other.y * scale});
          if (real) store(to, left + p * 8 + four_column(), four);
        });
      }
    });
  }

  MULTIMIX_DEVICE void element(int place, int row, int column, float x) const {
    if (row < rows) row_of(place, row)[column] = from_float<T>(x);
  }

  MULTIMIX_DEVICE T* row_of(int place, int row) const { return out + ((first_location + place) * n + first + row) * d; }

  template <class Vector>
  MULTIMIX_DEVICE void store(T* row, int at, const Vector& values) const {
    if (aligned) {
      if (at < d) *reinterpret_cast<Vector*>(row + at) = values;
    } else {
      const T* elements = reinterpret_cast<const T*>(&values);
#pragma unroll
      for (int e = 0; e < BlockTile<operand>::kVector; ++e)
        if (at + e < d) row[at + e] = elements[e];
    }
  }
};

}  // namespace

void mix(const Context& context, const MixJob& job) {
  with_operand(job.operand, [&](auto constant) {
    constexpr Operand operand = decltype(constant)::value;
    using T = Element<operand>;
    Recycled of_locations(context);
    Matrix<T> values;
    const int64_t bytes = int64_t(job.draw.b) * job.d * sizeof(T);
    const int64_t most = std::max<int64_t>(1, kPartialBytes / bytes);
    for_each_block(context, job.draw, job.operand, false, most, [&](const Block& block) {
      if (block.first == 0) {
        of_locations.restart();
        values = operand_matrix<operand>(of_locations.context, job.values, block.first_location, block.places,
                                         job.draw.b, job.d, job.draw.ignored);
      }
      WriteMixed<operand> write{
          block.inverse,
          static_cast<T*>(job.mixed),
          job.draw.n,
          block.first,
          block.first_location,
          block.rows,
          block.stored,
          job.d,
          job.d % BlockTile<operand>::kVector == 0 && reinterpret_cast<uintptr_t>(job.mixed) % 16 == 0};
      mix_columns<operand>(context, "mix", block, values, column_groups<operand>(context, block, job.d), write);
    });
  });
}

}  // namespace multimix
