// What the reader makes of PTX text: modules, kernels, instructions (PTX ISA, sections 4 and 5).
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace ptx {

struct Warp;
struct Instruction;
using Run = void (*)(Warp&, const Instruction&);

constexpr int kLanes = 32;
constexpr uint32_t kAll = 0xffffffffu;

// Windows of generic addresses. No address of the host is in them, so that everything else is global.
constexpr uint64_t kSharedWindow = uint64_t{1} << 56;
constexpr uint64_t kLocalWindow = uint64_t{2} << 56;
constexpr uint64_t kWindowMask = uint64_t{0xff} << 56;

enum class Space : uint8_t { Generic, Global, Shared, Param, Const, Local };

struct Operand {
  enum Kind : uint8_t {
    None,       // "_"
    Register,   // reg; parts[0] is the second of "a|b"
    Immediate,  // bits
    Address,    // [reg + offset], [offset] if reg is -1; parts are what follows a comma
    Vector,     // {parts}
    Label,      // bits is the number of the instruction
    Symbol      // only in a program that is being read: afterwards an immediate, or the offset of an address
  };
  Kind kind = None;
  bool negated = false;                // "!%p1"
  bool named = false;                  // an address that begins with the symbol `text`
  bool dynamic = false;                // dynamic shared memory: it begins where static ends, when that is known
  int reg = -1;                        // of a register or the base of an address
  uint64_t bits = 0;                   // a value; of .f32 the low 32 bits; decimal numbers of a .f32 are converted
  int64_t offset = 0;                  // of an address, with the address of its symbol
  const uint64_t* constant = nullptr;  // of an immediate: its bits, once for each lane
  std::vector<Operand> parts;
  std::string text;  // as written
};

// Classes that executed instructions are counted by.
enum class Class : uint8_t {
  Integer,
  Float,
  Half,
  Double,
  Special,
  Convert,
  Move,
  Control,
  Matrix,
  Shared,
  Global,
  Local,
  Param,
  Atomic,
  Shuffle,
  Barrier,
  Asynchronous,
  Count
};

struct Instruction {
  std::string name;                   // "mma"
  std::vector<std::string> suffixes;  // "sync", "aligned", "m16n8k16", ...
  std::vector<Operand> operands;
  int line = 0;
  int guard = -1;  // register of "@%p"
  bool guard_negated = false;
  Class counted = Class::Integer;  // chosen by the decoder
  Run run = nullptr;
  int64_t data[4] = {};               // what the decoder wants to keep, e.g. a shape
  std::shared_ptr<const void> more;   // the same, for what is larger
  std::shared_ptr<const void> watch;  // of watch_wgmma

  bool has(std::string_view suffix) const;
  std::string text() const;  // name and suffixes, as written
  const Operand& operator[](int index) const { return operands[index]; }
};

// Chooses the function that executes an instruction and checks its suffixes and the number of its operands. nullptr if
// it does not know them: an error at load.
using Decode = Run (*)(Instruction&);

struct Family {
  Family(std::initializer_list<const char*> names, Decode decode);  // a static object in each family's file
};

struct Parameter {
  std::string name;
  uint32_t offset, size;
};

// Special registers are filled when a warp starts (PTX ISA, section 10).
struct Special {
  std::string name;
  int reg;
};

struct Kernel {
  std::string name;
  std::vector<Parameter> parameters;
  uint32_t parameter_bytes = 0;
  int registers = 0;
  std::vector<Special> specials;
  uint32_t static_shared = 0;  // dynamic shared memory follows, aligned
  uint32_t local_bytes = 0;    // of each lane
  uint32_t required[3] = {};   // .reqntid, .maxntid: threads of a block
  bool exactly = false;        // .reqntid
  std::vector<Instruction> code;
};

// Variables .global and .const.
struct Variable {
  std::string name;
  uint64_t size;
  uint8_t* data;
  bool writable;
};

struct alignas(64) Lanes {
  uint64_t values[kLanes];
};

struct Module {
  std::map<std::string, Kernel> kernels;
  std::vector<std::string> order;
  std::map<std::string, Variable> variables;
  std::vector<std::unique_ptr<uint8_t[]>> memory;
  std::map<uint64_t, Lanes> constants;
  std::string target;

  const uint64_t* constant(uint64_t bits);  // 32 lanes of it
};

struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

std::unique_ptr<Module> read(const char* text);  // throws Error
void decode(Instruction&);                       // sets `run`; throws Error
// Makes the instructions that use registers of asynchronous products report what they must not do.
void watch_wgmma(Kernel&);

}  // namespace ptx
