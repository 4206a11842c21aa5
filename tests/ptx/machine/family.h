// What decoders use: suffixes and operands of an instruction.
#pragma once

#include "program.h"

namespace ptx {

// The suffixes of an instruction, taken one after the other. An instruction is known when all were taken.
struct Suffixes {
  const Instruction& i;
  size_t at = 0;

  bool take(std::string_view suffix) {
    if (at == i.suffixes.size() || i.suffixes[at] != suffix) return false;
    ++at;
    return true;
  }
  // The next suffix if it is one of these: its index, or -1.
  int take_one(std::initializer_list<const char*> suffixes) {
    int index = 0;
    for (const char* suffix : suffixes) {
      if (take(suffix)) return index;
      ++index;
    }
    return -1;
  }
  std::string_view next() const { return at == i.suffixes.size() ? std::string_view() : i.suffixes[at]; }
  bool done() const { return at == i.suffixes.size(); }
};

inline bool is_value(const Operand& operand) { return operand.kind == Operand::Register || operand.constant; }
inline bool is_register(const Operand& operand) { return operand.kind == Operand::Register; }
// `count` operands: a register, then values.
inline bool is_plain(const Instruction& i, size_t count) {
  if (i.operands.size() != count || !is_register(i[0])) return false;
  for (size_t k = 1; k < count; ++k)
    if (!is_value(i[k])) return false;
  return true;
}

}  // namespace ptx
