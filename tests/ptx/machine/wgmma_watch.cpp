// Registers of asynchronous products (PTX ISA 9.7.15.3 and 9.7.15.7.1, wgmma.fence): D is not to be read or written,
// and A not to be written, before the wait; after other instructions wrote them, wgmma.fence comes first.
//
// Compilers rename these registers: a plain mov to or from one is no access, but hands over what is known of it. They
// also move constants to D as late as behind the fence: there must be one since the group before.
#include <unordered_set>

#include "fragments.h"
#include "wgmma.h"

namespace ptx {
namespace {

bool is_product(const Instruction& i) {
  return i.name == "wgmma" && !i.suffixes.empty() && i.suffixes[0] == "mma_async";
}

bool is_copy(const Instruction& i) {
  return i.name == "mov" && i.operands.size() == 2 && i.operands[0].kind == Operand::Register &&
         i.operands[1].kind == Operand::Register;
}

// Calls f(register) for those of an operand.
template <class F>
void each_register(const Operand& operand, F f) {
  if (operand.reg >= 0) f(operand.reg);
  for (const Operand& part : operand.parts) each_register(part, f);
}

// Registers of an instruction, other than a product's, that are watched.
struct Watch {
  Run run;
  std::vector<int> sources, destinations;
  bool constant;  // a move of one
};

bool writes_first(const Instruction& i) {
  return !i.operands.empty() && i.name != "st" && i.name != "red" && i.name != "stmatrix" && i.name != "bra" &&
         i.name != "cp" && i.operands[0].kind != Operand::Address;
}

void run_watched(Warp& warp, const Instruction& i) {
  const Watch& watch = *static_cast<const Watch*>(i.watch.get());
  WarpProducts& state = products_of(warp);
  for (int source : watch.sources)
    if (state.pending(state.registers[source].group))
      fault(warp, 0, "wgmma result read early", "a product that was not waited for writes this register");
  for (int destination : watch.destinations) {
    Watched& watched = state.registers[destination];
    if (state.pending(watched.group))
      fault(warp, 0, "wgmma result written early", "a product that was not waited for writes this register too");
    if (state.pending(watched.reader))
      fault(warp, 0, "wgmma operand written early", "a product that was not waited for reads this register");
    watched = {0, 0, state.fences + 1, watch.constant};
  }
  watch.run(warp, i);
}

void run_copy(Warp& warp, const Instruction& i) {
  WarpProducts& state = products_of(warp);
  const Watched source = state.registers[i[1].reg];
  state.registers[i[0].reg] = {source.group, 0, source.fence, source.constant};
  static_cast<const Watch*>(i.watch.get())->run(warp, i);
}

void run_product(Warp& warp, const Instruction& i) {
  if (!whole(warp)) return;
  const Watch& watch = *static_cast<const Watch*>(i.watch.get());
  WarpProducts& state = products_of(warp);
  bool fenced = state.fences > 0;
  const auto check = [&](const Watched& watched) {
    fenced &= watched.fence != state.fences + 1 || (watched.constant && state.fences > state.fenced);
  };
  for (int source : watch.sources) {
    check(state.registers[source]);
    if (state.pending(state.registers[source].group))
      fault(warp, 0, "wgmma result read early", "a product that was not waited for writes this register");
  }
  for (int destination : watch.destinations) check(state.registers[destination]);
  if (!fenced)
    fault(warp, 0, "missing wgmma.fence", "other instructions wrote registers of the product since the last one");
  watch.run(warp, i);
  for (int source : watch.sources) state.registers[source].reader = state.groups;
  for (int destination : watch.destinations) state.registers[destination] = {state.groups, 0, 0, false};
}

}  // namespace

void watch_wgmma(Kernel& kernel) {
  std::unordered_set<int> watched;
  for (const Instruction& i : kernel.code)
    if (is_product(i)) {
      each_register(i[0], [&](int reg) { watched.insert(reg); });
      if (i[1].kind == Operand::Vector) each_register(i[1], [&](int reg) { watched.insert(reg); });
    }
  if (watched.empty()) return;
  for (size_t before = 0; before != watched.size();) {
    before = watched.size();
    for (const Instruction& i : kernel.code)
      if (is_copy(i) && (watched.count(i[0].reg) || watched.count(i[1].reg))) watched.insert({i[0].reg, i[1].reg});
  }
  for (Instruction& i : kernel.code) {
    auto watch = std::make_shared<Watch>();
    watch->run = i.run;
    watch->constant = i.name == "mov" && i.operands.size() == 2 && i[1].kind == Operand::Immediate;
    const bool product = is_product(i), writes = product || writes_first(i);
    for (size_t k = 0; k < i.operands.size(); ++k)
      each_register(i.operands[k], [&](int reg) {
        if (watched.count(reg)) (k == 0 && writes ? watch->destinations : watch->sources).push_back(reg);
      });
    if (watch->sources.empty() && watch->destinations.empty()) continue;
    i.run = product ? run_product : is_copy(i) ? run_copy : run_watched;
    i.watch = watch;
  }
}

}  // namespace ptx
