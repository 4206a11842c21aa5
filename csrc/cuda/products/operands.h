// Operands of block products in device memory: read where they lie if their layout allows, packed otherwise.
#pragma once

#include "cuda/host/blocks.h"
#include "cuda/products/copies.h"
#include "cuda/products/pack.h"

namespace multimix {

inline DType dtype_of(Operand operand) {
  return operand == Operand::kBF16 ? DType::kBFloat16 : operand == Operand::kF16 ? DType::kFloat16 : DType::kFloat32;
}

// Elements of the operand's type, rows of which are 16-byte aligned.
inline bool rows_aligned(const Strided& x, Operand operand) {
  const int64_t unit = 16 / element_bytes(operand);
  return x.dtype == dtype_of(operand) && x.strides[1] <= INT32_MAX && x.strides[2] == 1 && x.strides[1] % unit == 0 &&
         x.strides[0] % unit == 0 && reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

inline RowSource row_source(const Strided& from, int columns, Operand operand) {
  const bool aligned = rows_aligned(from, operand) && columns % (16 / element_bytes(operand)) == 0;
  return {from, aligned, columns};
}

// The places first ... of `from`. The hardware cuts off the digits that TF32 has not: packing rounds them.
template <Operand operand>
Matrix<Element<operand>> operand_matrix(const Context& context, const Strided& from, int first, int places, int rows,
                                        int columns, const bool* skip) {
  using T = Element<operand>;
  if (operand != Operand::kTF32 && rows_aligned(from, operand))
    return {static_cast<const T*>(from.data) + first * from.strides[0],
            from.strides[0],
            int(from.strides[1]),
            rows,
            columns,
            skip};
  const int pitch = round_up(columns, 8);
  const void* packed = pack(context, operand, from, first, places, rows, columns, rows, pitch);
  return {static_cast<const T*>(packed), int64_t(rows) * pitch, pitch, rows, columns, skip};
}

// The weights of a block.
template <Operand operand>
Matrix<Element<operand>> weight_matrix(const Block& block) {
  return {static_cast<const Element<operand>*>(block.weights),
          int64_t(block.stored) * block.width,
          block.width,
          block.stored,
          block.width,
          nullptr};
}

}  // namespace multimix
