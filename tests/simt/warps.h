// Functions of a warp. The lanes of `mask` wait for each other; only __syncwarp orders their memory accesses.
#pragma once

#include "names.h"

namespace simt {

enum class Shuffle { kIndex, kUp, kDown, kXor };

void sync_warp(uint32_t mask, const char* file, int line);
uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int argument, int width, const char* file, int line);
uint32_t ballot(const char* name, uint32_t mask, bool predicate, const char* file, int line);
uint32_t match(uint32_t mask, uint32_t value, const char* file, int line);

template <class T>
inline auto shuffle_value(Shuffle kind, uint32_t mask, T value, int argument, int width, const char* file, int line) {
  static_assert(std::is_arithmetic<T>::value, "shuffles move numbers");
  using Value = std::conditional_t<sizeof(T) < 4, int, T>;
  using Bits = std::conditional_t<sizeof(Value) == 4, uint32_t, uint64_t>;
  const Bits bits = bit_cast<Bits>(Value(value));
  return bit_cast<Value>(Bits(shuffle(kind, mask, bits, argument, width, file, line)));
}

}  // namespace simt

#define SIMT_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncwarp(unsigned mask = 0xffffffffu, SIMT_HERE) { simt::sync_warp(mask, file, line); }

template <class T>
inline auto __shfl_sync(unsigned mask, T value, int source, int width = 32, SIMT_HERE) {
  return simt::shuffle_value(simt::Shuffle::kIndex, mask, value, source, width, file, line);
}
template <class T>
inline auto __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, SIMT_HERE) {
  return simt::shuffle_value(simt::Shuffle::kUp, mask, value, int(by), width, file, line);
}
template <class T>
inline auto __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, SIMT_HERE) {
  return simt::shuffle_value(simt::Shuffle::kDown, mask, value, int(by), width, file, line);
}
template <class T>
inline auto __shfl_xor_sync(unsigned mask, T value, int with, int width = 32, SIMT_HERE) {
  return simt::shuffle_value(simt::Shuffle::kXor, mask, value, with, width, file, line);
}

inline unsigned __ballot_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::ballot("__ballot_sync", mask, predicate != 0, file, line);
}
inline int __any_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::ballot("__any_sync", mask, predicate != 0, file, line) != 0;
}
inline int __all_sync(unsigned mask, int predicate, SIMT_HERE) {
  return simt::ballot("__all_sync", mask, predicate != 0, file, line) == mask;
}
inline unsigned __match_any_sync(unsigned mask, unsigned value, SIMT_HERE) {
  return simt::match(mask, value, file, line);
}
