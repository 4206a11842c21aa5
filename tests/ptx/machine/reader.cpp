// Modules, kernels and variables (PTX ISA, sections 4, 5 and 11).
#include <algorithm>

#include "operands.h"

namespace ptx {
namespace {

const std::map<std::string, int> kTypes = {
    {"pred", 8}, {"b8", 1},  {"u8", 1},  {"s8", 1},    {"b16", 2},  {"u16", 2},    {"s16", 2},
    {"f16", 2},  {"b32", 4}, {"u32", 4}, {"s32", 4},   {"f32", 4},  {"f16x2", 4},  {"b64", 8},
    {"u64", 8},  {"s64", 8}, {"f64", 8}, {"b128", 16}, {"bf16", 2}, {"bf16x2", 4},
};

uint64_t round_up(uint64_t value, uint64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

// A declaration such as ".align 16 .b8 name[256]"; the scanner stands after its space.
struct Declaration {
  std::string name;
  uint64_t element = 0, count = 1;
  uint32_t align = 0;
  bool is_array = false, is_float = false;
  uint64_t bytes() const { return element * count; }
};

class Reader {
 public:
  explicit Reader(const char* text) : scanner_(text), module_(std::make_unique<Module>()) {}

  std::unique_ptr<Module> read() {
    while (!scanner_.end()) directive();
    return std::move(module_);
  }

 private:
  void directive() {
    const std::string word = scanner_.word();
    if (word == ".version" || word == ".address_size" || word == ".file" || word == ".loc") {
      scanner_.skip_line();
    } else if (word == ".target") {
      module_->target = scanner_.word();
      while (scanner_.take(',')) scanner_.word();
    } else if (word == ".visible" || word == ".weak" || word == ".extern") {
      external_ = word == ".extern";
    } else if (word == ".global" || word == ".const") {
      variable(word == ".global");
    } else if (word == ".shared") {
      shared();
    } else if (word == ".entry") {
      kernel();
    } else if (word == ".section") {
      scanner_.word();
      scanner_.skip_braces();
    } else if (word == ".pragma") {
      scanner_.until(';');
    } else {
      scanner_.fail("unknown directive " + (word.empty() ? std::string(1, scanner_.peek()) : word));
    }
  }

  Declaration declaration() {
    Declaration found;
    while (scanner_.peek() == '.') {
      const std::string word = scanner_.word().substr(1);
      const auto type = kTypes.find(word);
      if (word == "align") {
        found.align = std::stoi(scanner_.word());
      } else if (word == "ptr") {  // ".ptr .global .align 16" tells of what the pointer points to
        while (scanner_.peek() == '.')
          if (scanner_.word() == ".align") scanner_.word();
      } else if (type != kTypes.end()) {
        found.element = type->second;
        found.is_float = word == "f32" || word == "f64";
      } else {
        scanner_.fail("unknown type or property ." + word);
      }
    }
    if (!found.element) scanner_.fail("a declaration without a type");
    found.name = scanner_.word();
    while (scanner_.take('[')) {
      found.is_array = true;
      const std::string count = scanner_.word();
      found.count *= count.empty() ? 0 : std::stoull(count);
      scanner_.expect(']');
    }
    found.align = std::max<uint32_t>(found.align, found.element);
    return found;
  }

  void variable(bool writable) {
    const Declaration found = declaration();
    if (external_) scanner_.fail("an external variable: " + found.name);
    module_->memory.push_back(std::make_unique<uint8_t[]>(found.bytes() + found.align));
    const auto start = reinterpret_cast<uint64_t>(module_->memory.back().get());
    auto* data = reinterpret_cast<uint8_t*>(round_up(start, found.align));
    if (scanner_.take('=')) {
      uint8_t* next = data;
      values(found, next, data + found.bytes());
    }
    scanner_.expect(';');
    module_->variables[found.name] = {found.name, found.bytes(), data, writable};
    scopes_.add(found.name, {Symbol::Variable, -1, reinterpret_cast<uint64_t>(data), found.bytes()});
  }

  void values(const Declaration& declared, uint8_t*& next, uint8_t* end) {
    if (scanner_.take('{')) {
      do values(declared, next, end);
      while (scanner_.take(','));
      scanner_.expect('}');
      return;
    }
    OperandReader reader{scanner_, scopes_, declared.element == 8, nullptr};
    const Operand value = reader.read();
    if (value.kind != Operand::Immediate) scanner_.fail("an initial value that is not a number");
    if (next + declared.element > end) scanner_.fail("too many initial values");
    std::memcpy(next, &value.bits, declared.element);
    next += declared.element;
  }

  void shared() {
    const Declaration found = declaration();
    scanner_.expect(';');
    const bool dynamic = external_ || found.bytes() == 0;
    external_ = false;
    scopes_.add(found.name, {dynamic ? Symbol::External : Symbol::Shared, -1, 0, found.bytes(), found.align});
  }

  void kernel() {
    kernel_ = {};
    labels_.clear();
    scopes_.open();
    kernel_.name = scanner_.word();
    if (scanner_.take('(')) parameters();
    properties();
    if (!scanner_.take(';')) {
      scanner_.expect('{');
      const size_t depth = scopes_.depth();
      scopes_.open();
      while (scopes_.depth() > depth) statement();
      finish();
      module_->order.push_back(kernel_.name);
      module_->kernels[kernel_.name] = std::move(kernel_);
    }
    scopes_.close();
  }

  void parameters() {
    if (scanner_.take(')')) return;
    do {
      if (scanner_.word() != ".param") scanner_.fail("expected .param");
      const Declaration found = declaration();
      const uint32_t offset = round_up(kernel_.parameter_bytes, found.align);
      kernel_.parameters.push_back({found.name, offset, uint32_t(found.bytes())});
      kernel_.parameter_bytes = offset + found.bytes();
      scopes_.add(found.name, {Symbol::Parameter, -1, offset, found.bytes()});
    } while (scanner_.take(','));
    scanner_.expect(')');
  }

  void properties() {  // performance directives
    while (scanner_.peek() == '.') {
      const std::string word = scanner_.word();
      if (word != ".reqntid" && word != ".maxntid" && word != ".minnctapersm" && word != ".maxnreg" &&
          word != ".maxnctapersm" && word != ".reqnctapercluster" && word != ".explicitcluster" && word != ".pragma")
        scanner_.fail("unknown property " + word);
      if (word == ".explicitcluster") continue;
      if (word == ".pragma") {
        scanner_.until(';');
        continue;
      }
      uint32_t sizes[3] = {1, 1, 1};
      int count = 0;
      do {
        if (count == 3) scanner_.fail("too many sizes");
        sizes[count++] = std::stoul(scanner_.word());
      } while (scanner_.take(','));
      if (word == ".reqntid" || word == ".maxntid") {
        std::copy(sizes, sizes + 3, kernel_.required);
        kernel_.exactly = word == ".reqntid";
      }
      if (word == ".reqnctapercluster" && sizes[0] * sizes[1] * sizes[2] != 1) scanner_.fail("clusters of blocks");
    }
  }

  void statement() {
    if (scanner_.end()) scanner_.fail("the text ends in a kernel");
    if (scanner_.take('{')) return scopes_.open();
    if (scanner_.take('}')) return scopes_.close();
    if (scanner_.take(';')) return;
    const int line = scanner_.line();
    if (scanner_.peek() == '@') return instruction(line);
    if (scanner_.peek() == '.') return local_directive();
    const std::string word = scanner_.word();
    if (word.empty()) scanner_.fail(std::string("unexpected '") + scanner_.peek() + "'");
    if (scanner_.take(':')) {
      labels_[scopes_.label(word, scopes_.depth() - 1)] = kernel_.code.size();
      return;
    }
    instruction(line, word);
  }

  void local_directive() {
    const std::string word = scanner_.word();
    if (word == ".reg") {
      registers();
    } else if (word == ".shared") {
      shared();
    } else if (word == ".local") {
      const Declaration found = declaration();
      scanner_.expect(';');
      const uint32_t offset = round_up(kernel_.local_bytes, found.align);
      scopes_.add(found.name, {Symbol::Local, -1, offset, found.bytes()});
      kernel_.local_bytes = round_up(offset + found.bytes(), 16);
    } else if (word == ".pragma") {
      // "used_bytes_mask 4095": of the load that follows nobody reads the other bytes.
      const std::string text = scanner_.until(';');
      const size_t mask = text.find("used_bytes_mask");
      if (mask != std::string::npos)
        unused_bytes_ = ~uint32_t(std::stoul(text.substr(text.find_first_of("0123456789", mask))));
    } else if (word == ".loc" || word == ".file") {
      scanner_.skip_line();
    } else {
      scanner_.fail("unknown directive " + word);
    }
  }

  void registers() {
    const std::string type = scanner_.word().substr(1);
    if (!kTypes.count(type)) scanner_.fail("unknown type of a register: " + type);
    const int slots = type == "b128" ? 2 : 1;
    do {
      const std::string name = scanner_.word();
      int count = 1;
      const bool many = scanner_.take('<');
      if (many) {
        count = std::stoi(scanner_.word());
        scanner_.expect('>');
      }
      for (int k = 0; k < count; ++k, kernel_.registers += slots)
        scopes_.add(many ? name + std::to_string(k) : name, {Symbol::Register, kernel_.registers});
    } while (scanner_.take(','));
    scanner_.expect(';');
  }

  // Special registers are registers that are filled at the start.
  int special(const std::string& name) {
    static const char* const kKnown[] = {"%tid.x",
                                         "%tid.y",
                                         "%tid.z",
                                         "%ntid.x",
                                         "%ntid.y",
                                         "%ntid.z",
                                         "%ctaid.x",
                                         "%ctaid.y",
                                         "%ctaid.z",
                                         "%nctaid.x",
                                         "%nctaid.y",
                                         "%nctaid.z",
                                         "%laneid",
                                         "%warpid",
                                         "%nwarpid",
                                         "%lanemask_eq",
                                         "%lanemask_le",
                                         "%lanemask_lt",
                                         "%lanemask_ge",
                                         "%lanemask_gt",
                                         "%dynamic_smem_size",
                                         "%total_smem_size",
                                         "%cluster_ctarank",
                                         "%cluster_nctarank",
                                         "%smid",
                                         "%nsmid",
                                         "%gridid"};
    if (std::find(std::begin(kKnown), std::end(kKnown), name) == std::end(kKnown)) return -1;
    for (const Special& known : kernel_.specials)
      if (known.name == name) return known.reg;
    kernel_.specials.push_back({name, kernel_.registers});
    return kernel_.registers++;
  }

  void instruction(int line, std::string word = "") {
    Instruction i;
    i.line = line;
    if (word.empty()) {
      scanner_.expect('@');
      i.guard_negated = scanner_.take('!');
      const std::string name = scanner_.word();
      const Symbol* guard = scopes_.find(name);
      if (!guard || guard->kind != Symbol::Register) scanner_.fail("unknown predicate " + name);
      i.guard = guard->reg;
      word = scanner_.word();
    }
    for (size_t from = 0; from <= word.size();) {
      size_t to = word.find('.', from);
      if (to == std::string::npos) to = word.size();
      if (from == 0)
        i.name = word.substr(0, to);
      else
        i.suffixes.push_back(word.substr(from, to - from));
      from = to + 1;
    }
    if (i.name == "call") scanner_.fail("a call of a function");
    OperandReader reader{scanner_, scopes_, i.has("f64"), [this](const std::string& name) { return special(name); }};
    if (!scanner_.take(';')) {
      do i.operands.push_back(reader.read());
      while (scanner_.take(','));
      scanner_.expect(';');
    }
    for (Operand& operand : i.operands) name_symbols(operand);
    i.data[3] = unused_bytes_;
    unused_bytes_ = 0;
    kernel_.code.push_back(std::move(i));
  }

  // Labels and shared memory have their values when the kernel is complete; which name is meant is known now.
  void name_symbols(Operand& operand) {
    for (Operand& part : operand.parts) name_symbols(part);
    if (operand.kind == Operand::Label) {
      std::string names;
      for (size_t depth = scopes_.depth(); depth--;) names += scopes_.label(operand.text, depth) + "\n";
      operand.text = names;
    } else if (operand.kind == Operand::Symbol || operand.named) {
      Symbol& symbol = *scopes_.find(operand.text);
      if (symbol.kind == Symbol::Shared && !placed(operand.text)) {
        const uint32_t offset = round_up(kernel_.static_shared, std::max<uint32_t>(symbol.align, 16));
        places_[operand.text] = offset;
        kernel_.static_shared = offset + symbol.size;
      }
      const uint64_t value = symbol.kind == Symbol::Shared ? places_[operand.text] : symbol.value;
      if (operand.kind == Operand::Symbol)
        operand.bits = value;
      else
        operand.offset += static_cast<int64_t>(value);
      operand.dynamic = symbol.kind == Symbol::External;
      if (operand.dynamic) dynamic_align_ = std::max(dynamic_align_, symbol.align);
    }
  }

  bool placed(const std::string& name) const { return places_.count(name); }

  void resolve(Operand& operand) {
    for (Operand& part : operand.parts) resolve(part);
    if (operand.kind == Operand::Label) {
      size_t from = 0, to;
      while ((to = operand.text.find('\n', from)) != std::string::npos) {
        const auto found = labels_.find(operand.text.substr(from, to - from));
        if (found != labels_.end()) {
          operand.bits = found->second;
          return;
        }
        from = to + 1;
      }
      throw Error("unknown name " + operand.text.substr(operand.text.find(' ') + 1, operand.text.find('\n') - 2));
    }
    if (operand.dynamic && operand.named) operand.offset += kernel_.static_shared;
    if (operand.dynamic && !operand.named) operand.bits = kernel_.static_shared;
    if (operand.kind == Operand::Symbol) operand.kind = Operand::Immediate;
    if (operand.kind == Operand::Immediate) operand.constant = module_->constant(operand.bits);
  }

  void finish() {
    kernel_.static_shared = round_up(kernel_.static_shared, std::max<uint32_t>(16, dynamic_align_));
    Instruction end;
    end.name = "ret";
    end.line = scanner_.line();
    kernel_.code.push_back(end);
    for (Instruction& i : kernel_.code) {
      try {
        for (Operand& operand : i.operands) resolve(operand);
        decode(i);
      } catch (const Error& error) {
        throw Error("line " + std::to_string(i.line) + ": " + error.what());
      }
    }
    watch_wgmma(kernel_);
    places_.clear();
    dynamic_align_ = 1;
  }

  Scanner scanner_;
  std::unique_ptr<Module> module_;
  Scopes scopes_;
  Kernel kernel_;
  std::map<std::string, size_t> labels_;
  std::map<std::string, uint32_t> places_;  // of shared variables in the kernel
  uint32_t unused_bytes_ = 0;               // of the load that is next
  uint32_t dynamic_align_ = 1;
  bool external_ = false;
};

}  // namespace

std::unique_ptr<Module> read(const char* text) { return Reader(text).read(); }

const uint64_t* Module::constant(uint64_t bits) {
  const auto [found, added] = constants.try_emplace(bits);
  if (added) std::fill_n(found->second.values, kLanes, bits);
  return found->second.values;
}

}  // namespace ptx
