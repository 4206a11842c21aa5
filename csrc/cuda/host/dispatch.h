// From run-time options to template parameters.
#pragma once

#include <type_traits>

#include "cuda/host/jobs.h"

namespace multimix {

template <Operand operand>
using OperandConstant = std::integral_constant<Operand, operand>;
template <Arithmetic arithmetic>
using ArithmeticConstant = std::integral_constant<Arithmetic, arithmetic>;

// work(OperandConstant<operand>{})
template <class Work>
void with_operand(Operand operand, Work work) {
  switch (operand) {
    case Operand::kBF16: return work(OperandConstant<Operand::kBF16>{});
    case Operand::kF16: return work(OperandConstant<Operand::kF16>{});
    case Operand::kTF32: return work(OperandConstant<Operand::kTF32>{});
    case Operand::kFP32: return work(OperandConstant<Operand::kFP32>{});
  }
}

// work(ArithmeticConstant<arithmetic>{})
template <class Work>
void with_arithmetic(Arithmetic arithmetic, Work work) {
  switch (arithmetic) {
    case Arithmetic::kHardware: return work(ArithmeticConstant<Arithmetic::kHardware>{});
    case Arithmetic::kAccurate: return work(ArithmeticConstant<Arithmetic::kAccurate>{});
    case Arithmetic::kLogSpace: return work(ArithmeticConstant<Arithmetic::kLogSpace>{});
  }
}

}  // namespace multimix
