// bra, ret, exit, trap, brkpt, nanosleep, activemask (PTX ISA, sections 9.7.12, 9.7.13 and 9.7.19).
#include "block.h"
#include "family.h"

namespace ptx {
namespace {

void branch(Warp& warp, const Instruction& i) { warp.jump(int(i[0].bits), warp.active); }

void leave(Warp& warp, const Instruction&) { warp.leave(warp.active); }

void trap(Warp& warp, const Instruction& i) {
  fault(warp, __builtin_ctz(warp.active), "trap", i.name);
  warp.block.launch.stop = true;
  warp.leave(warp.active);
}

void yield(Warp& warp, const Instruction&) { warp.yields = true; }

void active_mask(Warp& warp, const Instruction& i) {
  uint64_t* to = warp.lanes(i[0].reg);
  each(warp, [&](int lane) { to[lane] = warp.active; });
}

Run decode_control(Instruction& i) {
  i.counted = Class::Control;
  const bool bare = i.operands.empty() && (i.suffixes.empty() || (i.suffixes.size() == 1 && i.has("uni")));
  if (i.name == "bra") {
    const bool known = i.suffixes.empty() || (i.suffixes.size() == 1 && i.has("uni"));
    return known && i.operands.size() == 1 && i[0].kind == Operand::Label ? branch : nullptr;
  }
  if (i.name == "ret" || i.name == "exit") return bare ? leave : nullptr;
  if (i.name == "trap" || i.name == "brkpt") return bare ? trap : nullptr;
  if (i.name == "nanosleep") return i.has("u32") && i.operands.size() == 1 ? yield : nullptr;
  return i.has("b32") && i.operands.size() == 1 && is_register(i[0]) ? active_mask : nullptr;  // activemask
}

const Family control({"bra", "ret", "exit", "trap", "brkpt", "nanosleep", "activemask"}, decode_control);

}  // namespace
}  // namespace ptx
