// Rows of a tensor on their way through registers into an operand tile: shifted, scaled, rounded.
#pragma once

#include "cuda/device/read.h"
#include "cuda/products/operands.h"

namespace multimix {

// The rows of a block in a tensor (r, n, columns) of any type and layout.
struct RowSource {
  Strided from;
  bool aligned;  // 16-byte accesses
  int columns;
};

inline RowSource row_source(const Strided& from, int columns, Operand operand) {
  const bool aligned = rows_aligned(from, operand) && columns % (16 / element_bytes(operand)) == 0;
  return {from, aligned, columns};
}

// A tile of height x width, read one step ahead of its use. Per 16 bytes: a load, a conversion per element, a store.
// finite: minus infinity becomes a number, so that zero times it is zero.
template <Operand operand, int height, int width, bool finite = false>
class RowsLoader {
  using T = Element<operand>;
  static constexpr int kVector = BlockTile<operand>::kVector;
  static constexpr int kAcross = width / kVector, kStep = kBlockThreads / kAcross, kCount = height / kStep;
  static_assert(kBlockThreads % kAcross == 0 && height % kStep == 0);

 public:
  // Rows and columns past the end read as zero. `factor` is of the row at `first_row`, `shift` too; either may be null.
  MULTIMIX_DEVICE void load(const RowSource& source, int location, int64_t first, int first_row, int rows,
                            int first_column, const float* factor, const float* shift) {
    const int column = first_column + this->column();
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const int row = first_row + this->row() + k * kStep;
      const bool inside = row < rows && column < source.columns;
      bits_[k] = {0, 0, 0, 0};
      factor_[k] = inside && factor ? factor[row] : 1;
      shift_[k] = inside && shift ? shift[row] : 0;
      if (!inside) continue;
      const int64_t at = location * source.from.strides[0] + (first + row) * source.from.strides[1];
      if (source.aligned)
        bits_[k] = *reinterpret_cast<const uint4*>(static_cast<const T*>(source.from.data) + at + column);
      else
        gather(source, at, column, bits_[k]);
    }
  }

  MULTIMIX_DEVICE void store(T* tile, int pitch) const {
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      const uint4 bits = {scaled(bits_[k].x, k), scaled(bits_[k].y, k), scaled(bits_[k].z, k), scaled(bits_[k].w, k)};
      *reinterpret_cast<uint4*>(tile + (row() + k * kStep) * pitch + column()) = bits;
    }
  }

 private:
  static MULTIMIX_DEVICE int row() { return threadIdx.x / kAcross; }
  static MULTIMIX_DEVICE int column() { return threadIdx.x % kAcross * kVector; }

  static MULTIMIX_DEVICE void gather(const RowSource& source, int64_t at, int column, uint4& bits) {
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      float x[4 / sizeof(T)];
#pragma unroll
      for (int e = 0; e < int(4 / sizeof(T)); ++e) {
        const int j = column + w * int(4 / sizeof(T)) + e;
        x[e] = j < source.columns ? read(source.from, at + j * source.from.strides[2]) : 0.0f;
      }
      if constexpr (sizeof(T) == 2) {
        words[w] = pack<T>(x[0], x[1]);
      } else {
        words[w] = __float_as_uint(x[0]);
      }
    }
    bits = {words[0], words[1], words[2], words[3]};
  }

  static MULTIMIX_DEVICE float number(float x) {
    constexpr float kLeast = operand == Operand::kF16 ? -65504.0f : -3e38f;
    return finite && x < kLeast ? kLeast : x;
  }

  MULTIMIX_DEVICE uint32_t scaled(uint32_t word, int k) const {
    if constexpr (sizeof(T) == 2) {
      const float low = to_float(T{uint16_t(word)}), high = to_float(T{uint16_t(word >> 16)});
      return pack<T>((number(low) - shift_[k]) * factor_[k], (number(high) - shift_[k]) * factor_[k]);
    } else {
      return __float_as_uint(round_operand<operand>((number(__uint_as_float(word)) - shift_[k]) * factor_[k]));
    }
  }

  uint4 bits_[kCount];
  float factor_[kCount], shift_[kCount];
};

}  // namespace multimix
