// Which function executes an instruction.
#include <unordered_map>

#include "program.h"

namespace ptx {
namespace {

std::unordered_map<std::string, std::vector<Decode>>& families() {
  static std::unordered_map<std::string, std::vector<Decode>> known;
  return known;
}

}  // namespace

Family::Family(std::initializer_list<const char*> names, Decode decode) {
  for (const char* name : names) families()[name].push_back(decode);
}

void decode(Instruction& i) {
  const auto found = families().find(i.name);
  if (found == families().end()) throw Error("unknown instruction " + i.text());
  for (Decode decode : found->second)
    if ((i.counted = Class::Integer, i.run = decode(i))) return;
  throw Error("unknown form of an instruction: " + i.text() + ", " + std::to_string(i.operands.size()) + " operands");
}

bool Instruction::has(std::string_view suffix) const {
  for (const std::string& known : suffixes)
    if (known == suffix) return true;
  return false;
}

std::string Instruction::text() const {
  std::string text = name;
  for (const std::string& suffix : suffixes) text += "." + suffix;
  return text;
}

}  // namespace ptx
