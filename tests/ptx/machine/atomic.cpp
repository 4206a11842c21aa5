// atom, red (PTX ISA, sections 9.7.13.5 and 9.7.13.6).
#include <algorithm>

#include "family.h"
#include "memory.h"

namespace ptx {
namespace {

enum Operation { Add, Min, Max, And, Or, Xor, Exchange, Compare, Increment, Decrement };

template <class T>
T combine(Operation operation, T old, T value, T third) {
  if constexpr (std::is_floating_point_v<T>) {
    return operation == Add ? old + value : value;
  } else {
    switch (operation) {
      case Add: return static_cast<T>(static_cast<std::make_unsigned_t<T>>(old) + value);
      case Min: return std::min(old, value);
      case Max: return std::max(old, value);
      case And: return old & value;
      case Or: return old | value;
      case Xor: return old ^ value;
      case Exchange: return value;
      case Compare: return old == value ? third : old;
      case Increment: return old >= value ? 0 : old + 1;
      default: return old == 0 || old > value ? value : old - 1;
    }
  }
}

// data: space, operation, whether the old value is wanted
template <class T>
void update(Warp& warp, const Instruction& i) {
  const int first = i.data[2];
  const auto operation = Operation(i.data[1]);
  uint64_t* d = first && i[0].kind == Operand::Register ? warp.lanes(i[0].reg) : nullptr;
  const uint64_t* value = warp.values(i[first + 1]);
  const uint64_t* third = operation == Compare ? warp.values(i[first + 2]) : value;
  access(warp, i[first], Space(i.data[0]), sizeof(T), Intent::Atomic, [&](const Accesses& accesses) {
    for (uint32_t left = accesses.good; left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      T old;
      std::memcpy(&old, accesses.host[lane], sizeof old);
      const T result = combine<T>(operation, old, as<T>(value[lane]), as<T>(third[lane]));
      std::memcpy(accesses.host[lane], &result, sizeof result);
      if (d) d[lane] = bits_of(old);
    }
  });
}

Run decode(Instruction& i) {
  i.counted = Class::Atomic;
  Suffixes suffixes{i};
  if (suffixes.take_one({"relaxed", "acquire", "release", "acq_rel"}) >= 0) {
  }
  suffixes.take_one({"cta", "cluster", "gpu", "sys"});
  const int space = suffixes.take_one({"global", "shared", "shared::cta"});
  i.data[0] = int(space < 0 ? Space::Generic : space == 0 ? Space::Global : Space::Shared);
  suffixes.take_one({"cta", "cluster", "gpu", "sys"});
  const int operation = suffixes.take_one({"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"});
  if (operation < 0) return nullptr;
  i.data[1] = operation;
  i.data[2] = i.name == "atom";
  suffixes.take("noftz");
  const int type = suffixes.take_one({"u32", "s32", "b32", "f32", "u64", "s64", "b64", "f64"});
  const size_t count = i.data[2] + 2 + (operation == Compare);
  if (type < 0 || !suffixes.done() || i.operands.size() != count || i[i.data[2]].kind != Operand::Address)
    return nullptr;
  for (size_t k = i.data[2] + 1; k < count; ++k)
    if (!is_value(i[k])) return nullptr;
  const bool is_float = type == 3 || type == 7;
  if (is_float && operation != Add) return nullptr;
  if ((operation == Increment || operation == Decrement) && type != 0) return nullptr;
  switch (type) {
    case 1: return update<int32_t>;
    case 3: return update<float>;
    case 5: return update<int64_t>;
    case 7: return update<double>;
    case 0:
    case 2: return update<uint32_t>;
    default: return update<uint64_t>;
  }
}

const Family family({"atom", "red"}, decode);

}  // namespace
}  // namespace ptx
