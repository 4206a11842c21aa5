// Answers the calls that -fsanitize=thread and -fsanitize=alignment put before memory accesses. Outside kernels they
// return at once.
#include <string.h>

#include "block.h"
#include "shadow.h"

using simt::Access;
using simt::current;

#define SIMT_AT __builtin_return_address(0)

namespace {

template <size_t bytes>
inline void fixed(const void* address, Access access, const void* at) {
  if (current != nullptr) simt::touch_fixed<bytes>(*current, uintptr_t(address), access, at);
}
inline void any(const void* address, size_t bytes, Access access, const void* at) {
  if (current != nullptr) simt::touch(*current, uintptr_t(address), bytes, access, at);
}

struct TypeDescriptor {
  uint16_t kind, info;
  char name[1];
};
struct TypeMismatch {
  const char* file;
  uint32_t line, column;
  const TypeDescriptor* type;
  unsigned char log_alignment, kind;
};

}  // namespace

extern "C" {

void __tsan_init() {}
void __tsan_func_entry(void*) {
  if (current != nullptr) ++current->depth;
}
void __tsan_func_exit() {
  if (current != nullptr) --current->depth;
}

#define SIMT_FIXED(bytes)                                                                        \
  void __tsan_read##bytes(void* p) { fixed<bytes>(p, Access::kRead, SIMT_AT); }                  \
  void __tsan_write##bytes(void* p) { fixed<bytes>(p, Access::kWrite, SIMT_AT); }                \
  void __tsan_volatile_read##bytes(void* p) { fixed<bytes>(p, Access::kRead, SIMT_AT); }         \
  void __tsan_volatile_write##bytes(void* p) { fixed<bytes>(p, Access::kWrite, SIMT_AT); }       \
  void __tsan_unaligned_read##bytes(void* p) { any(p, bytes, Access::kRead, SIMT_AT); }          \
  void __tsan_unaligned_write##bytes(void* p) { any(p, bytes, Access::kWrite, SIMT_AT); }        \
  void __tsan_unaligned_volatile_read##bytes(void* p) { any(p, bytes, Access::kRead, SIMT_AT); } \
  void __tsan_unaligned_volatile_write##bytes(void* p) { any(p, bytes, Access::kWrite, SIMT_AT); }
SIMT_FIXED(1)
SIMT_FIXED(2)
SIMT_FIXED(4)
SIMT_FIXED(8)
SIMT_FIXED(16)

void __tsan_read_range(void* p, size_t bytes) { any(p, bytes, Access::kRead, SIMT_AT); }
void __tsan_write_range(void* p, size_t bytes) { any(p, bytes, Access::kWrite, SIMT_AT); }
void __tsan_vptr_read(void** p) { any(p, sizeof(*p), Access::kRead, SIMT_AT); }
void __tsan_vptr_update(void** p, void*) { any(p, sizeof(*p), Access::kWrite, SIMT_AT); }

// Clang's names, and those that build.py puts into objects.
void* __tsan_memcpy(void* to, const void* from, size_t bytes) {
  any(from, bytes, Access::kRead, SIMT_AT);
  any(to, bytes, Access::kWrite, SIMT_AT);
  return memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, size_t bytes) {
  any(from, bytes, Access::kRead, SIMT_AT);
  any(to, bytes, Access::kWrite, SIMT_AT);
  return memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, size_t bytes) {
  any(to, bytes, Access::kWrite, SIMT_AT);
  return memset(to, value, bytes);
}

// Host code beside kernels uses these, for statics of functions and counts of references.
#define SIMT_UPDATE(bits, T, name)                               \
  T __tsan_atomic##bits##_##name(volatile T* p, T value, int) {  \
    any(const_cast<T*>(p), sizeof(T), Access::kAtomic, SIMT_AT); \
    return __atomic_##name(p, value, __ATOMIC_SEQ_CST);          \
  }
#define SIMT_EXCHANGE(bits, T, name, weak)                                                            \
  int __tsan_atomic##bits##_compare_exchange_##name(volatile T* p, T* expected, T value, int, int) {  \
    any(const_cast<T*>(p), sizeof(T), Access::kAtomic, SIMT_AT);                                      \
    return __atomic_compare_exchange_n(p, expected, value, weak, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
  }
#define SIMT_ATOMICS(bits, T)                                                                             \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { return __atomic_load_n(p, __ATOMIC_SEQ_CST); } \
  void __tsan_atomic##bits##_store(volatile T* p, T value, int) {                                         \
    any(const_cast<T*>(p), sizeof(T), Access::kAtomic, SIMT_AT);                                          \
    __atomic_store_n(p, value, __ATOMIC_SEQ_CST);                                                         \
  }                                                                                                       \
  SIMT_UPDATE(bits, T, exchange_n)                                                                        \
  T __tsan_atomic##bits##_exchange(volatile T* p, T value, int order) {                                   \
    return __tsan_atomic##bits##_exchange_n(p, value, order);                                             \
  }                                                                                                       \
  SIMT_UPDATE(bits, T, fetch_add)                                                                         \
  SIMT_UPDATE(bits, T, fetch_sub)                                                                         \
  SIMT_UPDATE(bits, T, fetch_and)                                                                         \
  SIMT_UPDATE(bits, T, fetch_or)                                                                          \
  SIMT_UPDATE(bits, T, fetch_xor)                                                                         \
  SIMT_EXCHANGE(bits, T, strong, false)                                                                   \
  SIMT_EXCHANGE(bits, T, weak, true)
SIMT_ATOMICS(8, uint8_t)
SIMT_ATOMICS(16, uint16_t)
SIMT_ATOMICS(32, uint32_t)
SIMT_ATOMICS(64, uint64_t)
void __tsan_atomic_thread_fence(int) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
void __tsan_atomic_signal_fence(int) { __atomic_signal_fence(__ATOMIC_SEQ_CST); }

void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, uintptr_t address) {
  if (current == nullptr) return;
  const char* slash = strrchr(data->file, '/');
  simt::fail("misaligned access at " + simt::place(address, 1) + ": " + data->type->name + " needs a multiple of " +
             std::to_string(1 << data->log_alignment) + " bytes, at " + (slash ? slash + 1 : data->file) + ":" +
             std::to_string(data->line));
}

}  // extern "C"
