// Aligned memory. The types belong to the instruction set's namespace: a std::vector<float> would be one function for
// the whole library, and the linker might keep the copy that was compiled for instructions this machine lacks.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#include "cpu/simd.h"

namespace multimix {
namespace MULTIMIX_ISA {

// Asks for huge pages where the system gives them to those who ask: fresh memory is filled page by page.
inline void advise_huge_pages(void* data, size_t bytes) {
#if defined(__linux__)
  constexpr uintptr_t page = 2 << 20;
  const uintptr_t first = (uintptr_t(data) + page - 1) / page * page, last = (uintptr_t(data) + bytes) / page * page;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

constexpr int64_t round_up(int64_t x, int64_t multiple) { return (x + multiple - 1) / multiple * multiple; }

[[noreturn]] inline void out_of_memory(double bytes, const char* what) {
  char message[160];
  std::snprintf(message, sizeof message, "out of memory: cannot allocate %.0f bytes for the %s", bytes, what);
  throw std::runtime_error(message);
}

template <class T>
struct Allocator {
  using value_type = T;
  Allocator() = default;
  template <class U>
  Allocator(const Allocator<U>&) {}
  T* allocate(size_t count) { return allocate(count, "working memory"); }
  T* allocate(size_t count, const char* what) {
    const size_t most = std::numeric_limits<int64_t>::max() / sizeof(T) - 64;
    void* p = count > most ? nullptr : std::aligned_alloc(64, round_up(int64_t(count * sizeof(T)) + 1, 64));
    if (!p) out_of_memory(double(count) * sizeof(T), what);
    advise_huge_pages(p, count * sizeof(T));
    return static_cast<T*>(p);
  }
  void deallocate(T* p, size_t) { std::free(p); }
  friend bool operator==(Allocator, Allocator) { return true; }
  friend bool operator!=(Allocator, Allocator) { return false; }
};

template <class T>
using Vector = std::vector<T, Allocator<T>>;

// Uninitialised memory, for what is written before it is read.
template <class Real>
class Buffer {
 public:
  explicit Buffer(int64_t count = 0, const char* what = "working memory")
      : data_(count ? Allocator<Real>().allocate(count, what) : nullptr) {}
  Real* get() const { return data_.get(); }

 private:
  struct Free {
    void operator()(Real* p) const { std::free(p); }
  };
  std::unique_ptr<Real, Free> data_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
