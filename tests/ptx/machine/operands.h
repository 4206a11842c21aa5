// Reads the operands of one instruction.
#pragma once

#include <functional>

#include "scanner.h"
#include "symbols.h"

namespace ptx {

struct OperandReader {
  Scanner& scanner;
  Scopes& scopes;
  bool is_double;                                  // what a decimal number such as 1.5 is
  std::function<int(const std::string&)> special;  // the register that stands for a special one, or -1

  Operand read();

 private:
  Operand name(const std::string& word);
  Operand value();
  Operand address();
};

}  // namespace ptx
