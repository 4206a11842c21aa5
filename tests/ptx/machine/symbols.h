// Names of a program that is being read.
#pragma once

#include <unordered_map>

#include "program.h"

namespace ptx {

struct Symbol {
  enum Kind { Register, Shared, External, Local, Parameter, Variable } kind;
  int reg = -1;
  uint64_t value = 0;  // offset or address
  uint64_t size = 0;
  uint32_t align = 1;
  bool placed = false;  // Shared
};

// Braces nest names. The outermost scope is the module's.
struct Scope {
  int number;
  std::unordered_map<std::string, Symbol> symbols;
};

class Scopes {
 public:
  Scopes() { open(); }
  void open() { scopes_.push_back({++count_, {}}); }
  void close() { scopes_.pop_back(); }
  size_t depth() const { return scopes_.size(); }
  Symbol& add(const std::string& name, Symbol symbol) {
    return scopes_.back().symbols.insert_or_assign(name, symbol).first->second;
  }
  Symbol* find(const std::string& name) {
    for (size_t k = scopes_.size(); k--;) {
      auto found = scopes_[k].symbols.find(name);
      if (found != scopes_[k].symbols.end()) return &found->second;
    }
    return nullptr;
  }
  // Labels are known by the scope and their name, as the same one may be in several scopes.
  std::string label(const std::string& name, size_t depth) const {
    return std::to_string(scopes_[depth].number) + " " + name;
  }

 private:
  std::vector<Scope> scopes_;
  int count_ = 0;
};

}  // namespace ptx
