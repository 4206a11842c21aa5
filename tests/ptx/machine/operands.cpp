// Operands of instructions (PTX ISA, sections 4.5 and 6).
#include "operands.h"

#include <cstdlib>

namespace ptx {
namespace {

bool is_number(const std::string& word) { return !word.empty() && std::isdigit(static_cast<unsigned char>(word[0])); }

// 12, 0x1F, 017, 0b11, with U; 0f3F800000, 0d3FF0000000000000; 1.5.
uint64_t number(const std::string& word, bool negative, bool is_double, const Scanner& scanner) {
  char* end = nullptr;
  const bool prefixed = word.size() > 2 && word[0] == '0';
  uint64_t value;
  if (prefixed && std::strchr("fFdD", word[1])) {
    value = std::strtoull(word.c_str() + 2, &end, 16);
    if (negative) value ^= uint64_t{1} << (std::strchr("fF", word[1]) ? 31 : 63);
    negative = false;
  } else if (word.find('.') != std::string::npos) {
    const double real = std::strtod(word.c_str(), &end) * (negative ? -1 : 1);
    const float single = static_cast<float>(real);
    uint32_t low;
    std::memcpy(&low, &single, 4);
    std::memcpy(&value, &real, 8);
    if (!is_double) value = low;
    negative = false;
  } else if (prefixed && std::strchr("bB", word[1])) {
    value = std::strtoull(word.c_str() + 2, &end, 2);
  } else {
    value = std::strtoull(word.c_str(), &end, 0);
  }
  if (*end == 'U') ++end;
  if (*end) scanner.fail("not a number: " + word);
  return negative ? -value : value;
}

}  // namespace

Operand OperandReader::name(const std::string& word) {
  Operand operand;
  operand.text = word;
  if (word == "_") return operand;
  if (word == "WARP_SZ") {
    operand.kind = Operand::Immediate;
    operand.bits = kLanes;
    return operand;
  }
  if (const Symbol* symbol = scopes.find(word); symbol && symbol->kind != Symbol::Register) {
    operand.kind = Operand::Symbol;
    return operand;
  } else if (symbol) {
    operand.kind = Operand::Register;
    operand.reg = symbol->reg;
    return operand;
  }
  if (word[0] == '%') {
    operand.kind = Operand::Register;
    operand.reg = special(word);
    if (operand.reg < 0) scanner.fail("unknown register " + word);
    return operand;
  }
  operand.kind = Operand::Label;
  return operand;
}

Operand OperandReader::value() {
  const bool inverted = scanner.take('!');
  const bool negative = scanner.take('-');
  const std::string word = scanner.word();
  if (word.empty()) scanner.fail(std::string("an operand cannot begin with '") + scanner.peek() + "'");
  if (is_number(word)) {
    Operand operand;
    operand.kind = Operand::Immediate;
    operand.bits = number(word, negative, is_double, scanner);
    operand.text = (negative ? "-" : "") + word;
    return operand;
  }
  if (negative) scanner.fail("a name cannot be negated: " + word);
  Operand operand = name(word);
  operand.negated = inverted;
  return operand;
}

Operand OperandReader::address() {
  const Operand base = value();
  Operand operand;
  operand.kind = Operand::Address;
  operand.text = base.text;
  operand.named = base.kind == Operand::Symbol;
  if (base.kind == Operand::Register)
    operand.reg = base.reg;
  else if (base.kind == Operand::Immediate)
    operand.offset = static_cast<int64_t>(base.bits);
  else if (!operand.named)
    scanner.fail("unknown name in an address: " + base.text);
  if (scanner.take('+') || scanner.peek() == '-') operand.offset += static_cast<int64_t>(value().bits);
  while (scanner.take(',')) operand.parts.push_back(read());
  scanner.expect(']');
  return operand;
}

Operand OperandReader::read() {
  if (scanner.take('[')) return address();
  Operand operand;
  if (scanner.take('{')) {
    operand.kind = Operand::Vector;
    if (scanner.take('}')) return operand;
    do operand.parts.push_back(read());
    while (scanner.take(','));
    scanner.expect('}');
    return operand;
  }
  operand = value();
  if (scanner.take('|')) operand.parts.push_back(value());
  return operand;
}

}  // namespace ptx
