// Walks through PTX text, past white space and comments (PTX ISA, section 4.1 to 4.4).
#pragma once

#include <cctype>
#include <cstring>
#include <string>

#include "program.h"

namespace ptx {

class Scanner {
 public:
  explicit Scanner(const char* text, int line = 1) : at_(text), line_(line) { skip(); }

  int line() const { return line_; }
  bool end() const { return *at_ == 0; }
  char peek() const { return *at_; }

  bool take(char character) {
    if (*at_ != character) return false;
    step();
    skip();
    return true;
  }

  void expect(char character) {
    if (!take(character)) fail(std::string("expected '") + character + "', found '" + *at_ + "'");
  }

  // Letters, digits and _ $ % . and a double colon.
  std::string word() {
    std::string word;
    while (is_part(*at_) || (at_[0] == ':' && at_[1] == ':')) {
      const int characters = *at_ == ':' ? 2 : 1;
      for (int k = 0; k < characters; ++k, step()) word += *at_;
    }
    skip();
    return word;
  }

  // All up to `end`, which is taken, with single spaces where there was white space or a comment.
  std::string until(char end) {
    std::string text;
    while (*at_ && *at_ != end) {
      const char* before = at_;
      skip();
      if (before != at_) {
        text += ' ';
        continue;
      }
      text += *at_;
      step();
    }
    expect(end);
    return text;
  }

  void skip_line() {
    while (*at_ && *at_ != '\n') step();
    skip();
  }

  void skip_braces() {  // { ... }
    expect('{');
    for (int depth = 1; depth;) {
      if (end()) fail("no } at the end");
      depth += (*at_ == '{') - (*at_ == '}');
      step();
      skip();
    }
  }

  [[noreturn]] void fail(const std::string& what) const { throw Error("line " + std::to_string(line_) + ": " + what); }

 private:
  static bool is_part(char c) { return std::isalnum(static_cast<unsigned char>(c)) || (c && std::strchr("_$%.", c)); }

  void step() {
    line_ += *at_ == '\n';
    ++at_;
  }

  void skip() {
    for (;;) {
      if (*at_ && std::isspace(static_cast<unsigned char>(*at_))) {
        step();
      } else if (at_[0] == '/' && at_[1] == '/') {
        while (*at_ && *at_ != '\n') step();
      } else if (at_[0] == '/' && at_[1] == '*') {
        while (*at_ && !(at_[0] == '*' && at_[1] == '/')) step();
        if (*at_) at_ += 2;
      } else {
        return;
      }
    }
  }

  const char* at_;
  int line_;
};

}  // namespace ptx
