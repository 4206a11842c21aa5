// Lanes of a warp that are at different instructions. The fragment with the lowest pc runs first, so that fragments
// meet again at the end of a branch or loop; one that has to wait for other lanes (".sync") is parked until they
// arrive.
#include <algorithm>

#include "block.h"

namespace ptx {
namespace {

constexpr uint32_t kFair = 5000;  // choices until another fragment has a turn: one that spins may wait for it

std::string hex(uint32_t mask) {
  char text[16];
  std::snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

}  // namespace

uint32_t Warp::bits(const Operand& operand) {
  const uint64_t* value = values(operand);
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes; ++lane) bits |= uint32_t(value[lane] & 1) << lane;
  return operand.negated ? ~bits : bits;
}

void Warp::set_bits(const Operand& predicate, uint32_t bits) {
  if (predicate.kind != Operand::Register) return;  // "_"
  uint64_t* to = lanes(predicate.reg);
  for (int lane = 0; lane < kLanes; ++lane) to[lane] = active >> lane & 1 ? bits >> lane & 1 : to[lane];
}

bool Warp::gather(uint32_t wanted) {
  wanted &= live;
  if (!(wanted & ~mask)) {
    if (const uint32_t missing = wanted & ~active)
      fault(*this, __builtin_ctz(missing), "divergence",
            "lanes " + hex(missing) + " are told not to execute what they are named in");
    return true;
  }
  others.push_back({pc - 1, mask, true});
  mask = 0;
  choose();
  return false;
}

void Warp::jump(int target, uint32_t taken) {
  if (taken == mask) {
    pc = target;
  } else {
    others.push_back({target, taken, false});
    mask &= ~taken;
  }
  if (!others.empty()) choose();
}

void Warp::leave(uint32_t leaving) {
  live &= ~leaving;
  mask &= ~leaving;
  for (Fragment& other : others) other.parked = false;  // they may have waited for these lanes
  if (!mask) choose();
}

void Warp::choose() {
  if (mask) others.push_back({pc, mask, false});
  mask = 0;
  limit = INT32_MAX;
  if (others.empty()) {
    state = Done;
    return;
  }
  std::sort(others.begin(), others.end(), [](const Fragment& a, const Fragment& b) { return a.pc < b.pc; });
  size_t kept = 0;
  for (size_t k = 1; k < others.size(); ++k) {
    if (others[k].pc == others[kept].pc) {
      others[kept].mask |= others[k].mask;
      others[kept].parked = false;
    } else {
      others[++kept] = others[k];
    }
  }
  others.resize(kept + 1);
  const bool fair = ++pieces % kFair == 0;
  size_t chosen = others.size();
  for (size_t k = 0; k < others.size(); ++k)
    if (!others[k].parked && (chosen == others.size() || fair)) chosen = k;
  if (chosen == others.size()) {
    std::string text;
    for (const Fragment& other : others)
      text += (text.empty() ? "lanes " : ", lanes ") + hex(other.mask) + " at line " +
              std::to_string(block.launch.kernel.code[other.pc].line);
    fault(*this, __builtin_ctz(others[0].mask), "deadlock", text + " wait for each other");
    block.launch.stop = true;
    state = Done;
    return;
  }
  pc = others[chosen].pc;
  mask = others[chosen].mask;
  others.erase(others.begin() + chosen);
  for (const Fragment& other : others)
    if (other.pc > pc) limit = std::min(limit, other.pc);
}

}  // namespace ptx
