// cp.async: a copy happens as late as it may, when its thread waits for it. Until then its destination cannot be used.
#include "block.h"
#include "shadow.h"

namespace simt {
namespace {

void finish(const Copy& copy) {
  const uintptr_t to = uintptr_t(copy.to), from = uintptr_t(copy.from);
  if (copy.bytes > 0) touch(*current, from, size_t(copy.bytes), Access::kRead, nullptr);
  set_state(to, 16, 0, kCopying);
  touch(*current, to, 16, Access::kWrite, nullptr);
  __builtin_memset(copy.to, 0, 16);
  __builtin_memcpy(copy.to, copy.from, size_t(copy.bytes));
}

}  // namespace

void start_copy(void* shared, const void* global, int bytes) {
  const uintptr_t to = uintptr_t(shared), from = uintptr_t(global);
  if (bytes < 0 || bytes > 16) fail("copy_async of " + std::to_string(bytes) + " bytes");
  if (to % 16 != 0) fail("misaligned destination of copy_async: " + place(to, 16));
  if (from % 16 != 0) fail("misaligned source of copy_async: " + place(from, 16));
  if (!in_shared(to, 16)) fail("out-of-bounds destination of copy_async: " + place(to, 16));
  if (bytes > 0) {
    const Span* span = find_span(from);
    if (span == nullptr || span->shared) fail("out-of-bounds source of copy_async: " + place(from, size_t(bytes)));
    touch(*current, from, size_t(bytes), Access::kRead, nullptr);
  }
  touch(*current, to, 16, Access::kWrite, nullptr);
  set_state(to, 16, kUnwritten | kCopying, 0);
  current->copies.push_back({shared, global, bytes, current->groups});
}

void commit_group() { ++current->groups; }

void wait_groups(int but) {
  size_t done = 0;
  for (auto& copies = current->copies; done < copies.size() && copies[done].group < current->groups - but; ++done)
    finish(copies[done]);
  current->copies.erase(current->copies.begin(), current->copies.begin() + long(done));
}

}  // namespace simt
