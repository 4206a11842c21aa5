// ld, ldu, st, prefetch (PTX ISA, section 9.7.9). What only hints at caches changes nothing here.
#include "family.h"
#include "memory.h"

namespace ptx {
namespace {

struct Form {
  Space space = Space::Generic;
  int count = 1, bytes = 0;
  bool is_signed = false;
};

// {.weak, .relaxed.scope, ...}{.space}{hints}{.v2}.type
bool parse(const Instruction& i, Form& form) {
  Suffixes suffixes{i};
  if (suffixes.take_one({"weak", "volatile"}) < 0 && suffixes.take_one({"relaxed", "acquire", "release"}) >= 0)
    suffixes.take_one({"cta", "cluster", "gpu", "sys"});
  const int space = suffixes.take_one({"global", "shared", "shared::cta", "param", "const", "local"});
  constexpr Space kSpaces[] = {Space::Global, Space::Shared, Space::Shared, Space::Param, Space::Const, Space::Local};
  if (space >= 0) form.space = kSpaces[space];
  while (suffixes.take_one({"ca",
                            "cg",
                            "cs",
                            "lu",
                            "cv",
                            "nc",
                            "wb",
                            "wt",
                            "L1::evict_normal",
                            "L1::evict_unchanged",
                            "L1::evict_first",
                            "L1::evict_last",
                            "L1::no_allocate",
                            "L2::evict_normal",
                            "L2::evict_first",
                            "L2::evict_last",
                            "L2::cache_hint",
                            "L2::64B",
                            "L2::128B",
                            "L2::256B"}) >= 0) {
  }
  const int vector = suffixes.take_one({"v2", "v4", "v8"});
  form.count = vector < 0 ? 1 : 2 << vector;
  constexpr int kBytes[] = {1, 1, 1, 2, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8, 16};
  const int type = suffixes.take_one(
      {"b8", "u8", "s8", "b16", "u16", "s16", "b32", "u32", "s32", "f32", "b64", "u64", "s64", "f64", "b128"});
  if (type < 0 || !suffixes.done()) return false;
  form.bytes = kBytes[type];
  form.is_signed = type == 2 || type == 5 || type == 8;
  return form.count * form.bytes <= 32;
}

Class counted(Space space) {
  switch (space) {
    case Space::Shared: return Class::Shared;
    case Space::Param:
    case Space::Const: return Class::Param;
    case Space::Local: return Class::Local;
    default: return Class::Global;
  }
}

const Operand& part(const Operand& operand, int k) {
  return operand.kind == Operand::Vector ? operand.parts[k] : operand;
}

template <class T>
void load_parts(Warp& warp, const Instruction& i) {
  const int count = i.data[1];
  access(warp, i[1], Space(i.data[0]), int(sizeof(T)) * count, Intent::Read, [&](const Accesses& accesses) {
    for (int k = 0; k < count; ++k) {
      const Operand& to = part(i[0], k);
      if (to.kind == Operand::None) continue;
      uint64_t* d = warp.lanes(to.reg);
      const auto fetch = [&](int lane) {
        T value;
        std::memcpy(&value, accesses.host[lane] + sizeof(T) * k, sizeof(T));
        d[lane] = static_cast<int64_t>(value);
      };
      if (accesses.good == kAll) {
        for (int lane = 0; lane < kLanes; ++lane) fetch(lane);
      } else {
        for (uint32_t left = accesses.good; left; left &= left - 1) fetch(__builtin_ctz(left));
      }
    }
  });
}

// Of lanes that write to one address, one is the last; which is not defined.
void lanes_differ(Warp& warp, int lane) {
  fault(warp, lane, "lane race", "lanes write different values to one address in one instruction");
}

template <class T>
void store_parts(Warp& warp, const Instruction& i) {
  const int count = i.data[1];
  access(warp, i[0], Space(i.data[0]), int(sizeof(T)) * count, Intent::Write, [&](const Accesses& accesses) {
    for (int k = 0; k < count; ++k) {
      const uint64_t* value = warp.values(part(i[1], k));
      for (uint32_t left = accesses.good; left; left &= left - 1) {
        const int lane = __builtin_ctz(left);
        std::memcpy(accesses.host[lane] + sizeof(T) * k, &value[lane], sizeof(T));
      }
    }
    if (!warp.block.launch.checks() || accesses.space == Space::Local) return;
    for (int k = 0; k < count; ++k) {
      const uint64_t* value = warp.values(part(i[1], k));
      each(accesses.good, [&](int lane) {
        if (std::memcmp(accesses.host[lane] + sizeof(T) * k, &value[lane], sizeof(T))) lanes_differ(warp, lane);
      });
    }
  });
}

// .b128: two registers, one after the other.
void load_128(Warp& warp, const Instruction& i) {
  const int count = i.data[1];
  access(warp, i[1], Space(i.data[0]), 16 * count, Intent::Read, [&](const Accesses& accesses) {
    for (int k = 0; k < count; ++k) {
      if (part(i[0], k).kind == Operand::None) continue;
      uint64_t* d = warp.lanes(part(i[0], k).reg);
      for (uint32_t left = accesses.good; left; left &= left - 1) {
        const int lane = __builtin_ctz(left);
        std::memcpy(&d[lane], accesses.host[lane] + 16 * k, 8);
        std::memcpy(&d[kLanes + lane], accesses.host[lane] + 16 * k + 8, 8);
      }
    }
  });
}

void store_128(Warp& warp, const Instruction& i) {
  const int count = i.data[1];
  access(warp, i[0], Space(i.data[0]), 16 * count, Intent::Write, [&](const Accesses& accesses) {
    for (int k = 0; k < count; ++k) {
      const uint64_t* value = warp.values(part(i[1], k));
      for (uint32_t left = accesses.good; left; left &= left - 1) {
        const int lane = __builtin_ctz(left);
        std::memcpy(accesses.host[lane] + 16 * k, &value[lane], 8);
        std::memcpy(accesses.host[lane] + 16 * k + 8, &value[kLanes + lane], 8);
      }
    }
  });
}

// The data operand: `count` registers (values for a store) or one.
bool fits(const Operand& operand, int count, bool may_be_value) {
  if (operand.kind == Operand::Vector) {
    if (int(operand.parts.size()) != count) return false;
    for (const Operand& one : operand.parts)
      if (!is_register(one) && !(may_be_value ? one.constant != nullptr : one.kind == Operand::None)) return false;
    return true;
  }
  return count == 1 && (is_register(operand) || (may_be_value && operand.constant));
}

Run decode_load(Instruction& i) {
  Form form;
  if (!parse(i, form)) return nullptr;
  const size_t count = i.operands.size();
  if (count != 2 + size_t(i.has("L2::cache_hint")) || i[1].kind != Operand::Address || !fits(i[0], form.count, false))
    return nullptr;
  i.counted = counted(form.space);
  i.data[0] = int(form.space);
  i.data[1] = form.count;
  switch (form.bytes) {
    case 1: return form.is_signed ? load_parts<int8_t> : load_parts<uint8_t>;
    case 2: return form.is_signed ? load_parts<int16_t> : load_parts<uint16_t>;
    case 4: return form.is_signed ? load_parts<int32_t> : load_parts<uint32_t>;
    case 8: return load_parts<uint64_t>;
    default: return load_128;
  }
}

Run decode_store(Instruction& i) {
  Form form;
  if (!parse(i, form) || form.space == Space::Param || form.space == Space::Const) return nullptr;
  const size_t count = i.operands.size();
  if (count != 2 + size_t(i.has("L2::cache_hint")) || i[0].kind != Operand::Address || !fits(i[1], form.count, true))
    return nullptr;
  i.counted = counted(form.space);
  i.data[0] = int(form.space);
  i.data[1] = form.count;
  switch (form.bytes) {
    case 1: return store_parts<uint8_t>;
    case 2: return store_parts<uint16_t>;
    case 4: return store_parts<uint32_t>;
    case 8: return store_parts<uint64_t>;
    default: return store_128;
  }
}

void nothing(Warp&, const Instruction&) {}

Run decode_prefetch(Instruction& i) {
  i.counted = Class::Global;
  return i.operands.size() == 1 && i[0].kind == Operand::Address ? nothing : nullptr;
}

// createpolicy.fractional.L2::evict_last.b64 d{, fraction}: a policy is a number that nobody reads.
void no_policy(Warp& warp, const Instruction& i) {
  uint64_t* d = warp.lanes(i[0].reg);
  each(warp, [&](int lane) { d[lane] = 0; });
}

Run decode_policy(Instruction& i) {
  i.counted = Class::Move;
  return i.has("fractional") && i.has("b64") && is_register(i[0]) ? no_policy : nullptr;
}

const Family loads({"ld", "ldu"}, decode_load);
const Family stores({"st"}, decode_store);
const Family prefetches({"prefetch"}, decode_prefetch);
const Family policies({"createpolicy"}, decode_policy);

}  // namespace
}  // namespace ptx
