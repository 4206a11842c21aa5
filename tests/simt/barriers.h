// Functions of a block: barriers, which all its threads must reach, and atomic additions.
#pragma once

#include "warps.h"

namespace simt {

// The number of threads whose predicate holds.
int sync_threads(const char* name, bool predicate, const char* file, int line);

// Checks an atomic access, which is ordered with no other, and races with none but plain ones.
void touch_atomically(void* at, size_t bytes);

}  // namespace simt

inline void __syncthreads(SIMT_HERE) { simt::sync_threads("__syncthreads", false, file, line); }
inline int __syncthreads_count(int predicate, SIMT_HERE) {
  return simt::sync_threads("__syncthreads_count", predicate != 0, file, line);
}
inline int __syncthreads_or(int predicate, SIMT_HERE) {
  return simt::sync_threads("__syncthreads_or", predicate != 0, file, line) != 0;
}
inline int __syncthreads_and(int predicate, SIMT_HERE) {
  return simt::sync_threads("__syncthreads_and", predicate == 0, file, line) == 0;
}

#define SIMT_ATOMIC_ADD(T)                                                    \
  __attribute__((no_sanitize("thread"))) inline T atomicAdd(T* at, T value) { \
    simt::touch_atomically(at, sizeof(T));                                    \
    const T before = *at;                                                     \
    *at = before + value;                                                     \
    return before;                                                            \
  }
SIMT_ATOMIC_ADD(int)
SIMT_ATOMIC_ADD(unsigned)
SIMT_ATOMIC_ADD(unsigned long long)
#undef SIMT_ATOMIC_ADD
