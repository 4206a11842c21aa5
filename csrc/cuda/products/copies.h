// From device memory to tiles in shared memory: by asynchronous copies, through registers, or out of labels.
//
// Cost per 16 bytes: an asynchronous copy is one instruction and an address; through registers it is a load, a
// conversion for each element and a store; labels cost a comparison and a store.
#pragma once

#include "cuda/device/read.h"
#include "cuda/products/tile.h"

namespace multimix {

// Operands in device memory (places, rows, columns), rows aligned to 16 bytes; what lies beyond reads as zero.
template <class T>
struct Matrix {
  const T* data;
  int64_t place;  // elements from place to place
  int pitch;      // elements from row to row
  int rows, columns;
  const bool* skip = nullptr;  // rows that read as zero whatever they hold, or null

  MULTIMIX_DEVICE Matrix at(int64_t index) const { return {data + index * place, place, pitch, rows, columns, skip}; }
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

// A thread's 16 bytes of each row that it copies of a tile (height, width).
template <class T, int height, int width, int threads>
struct Pieces {
  static constexpr int kVector = 16 / int(sizeof(T)), kAcross = width / kVector, kStep = threads / kAcross;
  static constexpr int kCount = height / kStep;
  static_assert(threads % kAcross == 0 && height % kStep == 0, "every thread copies equally many rows");
  static MULTIMIX_DEVICE int row() { return int(threadIdx.x / kAcross); }
  static MULTIMIX_DEVICE int column() { return int(threadIdx.x % kAcross) * kVector; }
};

// Starts the copy of a tile (height, width) from (first_row, first_column) on. Where the whole tile exists, a piece is
// a copy and a step of its address; at the edges it is compared too.
template <int height, int width, int threads, class T>
MULTIMIX_DEVICE void copy_rows(T* tile, int tile_pitch, const Matrix<T>& from, int first_row, int first_column) {
  using Own = Pieces<T, height, width, threads>;
  const int row = first_row + Own::row(), column = first_column + Own::column();
  const T* source = from.data + int64_t(row) * from.pitch + column;
  const int64_t step = int64_t(Own::kStep) * from.pitch;
  tile += Own::row() * tile_pitch + Own::column();
  if (first_row + height <= from.rows && first_column + width <= from.columns && from.skip == nullptr) {
#pragma unroll
    for (int k = 0; k < Own::kCount; ++k, source += step) copy_async(tile + k * Own::kStep * tile_pitch, source);
    return;
  }
  const int left = min(max(from.columns - column, 0), Own::kVector) * int(sizeof(T));
  constexpr int kUnroll = Own::kCount <= 2 ? Own::kCount : 1;  // comparisons of more rows make long code
#pragma unroll kUnroll
  for (int k = 0; k < Own::kCount; ++k, source += step) {
    const int at = row + k * Own::kStep;
    const bool inside = at < from.rows && !(from.skip != nullptr && from.skip[at]);
    copy_async(tile + k * Own::kStep * tile_pitch, source, inside ? left : 0);  // of none no address is read
  }
}

// The same of the rows of the labels of the examples from `first` on; zeros for an example that has no class.
template <int height, int width, int threads, class T>
MULTIMIX_DEVICE void copy_label_rows(T* tile, int tile_pitch, const Matrix<T>& from, const LabelRow& labels, int first,
                                     int first_column) {
  using Own = Pieces<T, height, width, threads>;
  const int column = first_column + Own::column();
  const int left = min(max(from.columns - column, 0), Own::kVector) * int(sizeof(T));
  tile += Own::row() * tile_pitch + Own::column();
#pragma unroll 1
  for (int k = 0; k < Own::kCount; ++k) {
    const int at = labels(first + Own::row() + k * Own::kStep);
    copy_async(tile + k * Own::kStep * tile_pitch, from.data + int64_t(max(at, 0)) * from.pitch + column,
               at < 0 ? 0 : left);
  }
}

// Zeros for NaN and infinity in a tile that copy_rows has copied, each thread in what it has copied itself.
template <int height, int width, int threads, class T>
MULTIMIX_DEVICE void keep_finite(T* tile, int tile_pitch) {
  using Own = Pieces<T, height, width, threads>;
#pragma unroll 1
  for (int k = 0; k < Own::kCount; ++k) {
    T* at = tile + (Own::row() + k * Own::kStep) * tile_pitch + Own::column();
#pragma unroll
    for (int e = 0; e < Own::kVector; ++e)
      if (!is_finite(to_float(at[e]))) at[e] = T{};
  }
}

// Targets of labels (examples, classes), written as copy_rows would copy them.
template <Operand operand, int height, int width, int threads>
MULTIMIX_DEVICE void write_ones(Element<operand>* tile, int tile_pitch, const LabelRow& labels, int first_row,
                                int first_column) {
  using Own = Pieces<Element<operand>, height, width, threads>;
  constexpr int kPerWord = 4 / int(sizeof(Element<operand>));
  constexpr uint32_t kOne = operand == Operand::kBF16 ? 0x3f80u : operand == Operand::kF16 ? 0x3c00u : 0x3f800000u;
  const int row = Own::row(), column = Own::column();
#pragma unroll
  for (int k = 0; k < Own::kCount; ++k) {
    const int hit = labels(first_row + row + k * Own::kStep) - (first_column + column);
    uint32_t words[4];
#pragma unroll
    for (int w = 0; w < 4; ++w) words[w] = hit >= 0 && hit / kPerWord == w ? kOne << (hit % kPerWord * 16) : 0;
    *reinterpret_cast<uint4*>(tile + (row + k * Own::kStep) * tile_pitch + column) =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
}

// The rows of a block in a tensor (r, n, columns) of any type and layout.
struct RowSource {
  Strided from;
  bool aligned;  // 16-byte accesses
  int columns;
};

// A tile (height, width) of such rows on its way through registers, where it is shifted, scaled and rounded: read one
// step ahead of its use. finite: minus infinity becomes a number, so that zero times it is zero.
template <Operand operand, int height, int width, bool finite = false>
class RowsLoader {
  using T = Element<operand>;
  using Own = Pieces<T, height, width, kBlockThreads>;

 public:
  // Rows and columns past the end read as zero. `factor` is of the row at `first_row`, `shift` too; either may be null.
  MULTIMIX_DEVICE void load(const RowSource& source, int location, int64_t first, int first_row, int rows,
                            int first_column, const float* factor, const float* shift) {
    const int column = first_column + Own::column();
#pragma unroll
    for (int k = 0; k < Own::kCount; ++k) {
      const int row = first_row + Own::row() + k * Own::kStep;
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
    for (int k = 0; k < Own::kCount; ++k) {
      const uint4 bits = {scaled(bits_[k].x, k), scaled(bits_[k].y, k), scaled(bits_[k].z, k), scaled(bits_[k].w, k)};
      *reinterpret_cast<uint4*>(tile + (Own::row() + k * Own::kStep) * pitch + Own::column()) = bits;
    }
  }

 private:
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
      const float2 x = unpack<T>(word);
      return pack<T>((number(x.x) - shift_[k]) * factor_[k], (number(x.y) - shift_[k]) * factor_[k]);
    } else {
      return __float_as_uint(round_operand<operand>((number(__uint_as_float(word)) - shift_[k]) * factor_[k]));
    }
  }

  uint4 bits_[Own::kCount];
  float factor_[Own::kCount], shift_[Own::kCount];
};

}  // namespace multimix
