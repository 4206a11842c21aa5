#include "shadow.h"

#include <algorithm>

#include "block.h"

namespace simt {

Clock shadow_clock;

namespace {

// Whether an access with this stamp is unordered with what `by` does now.
inline bool unordered(const Thread& by, uint64_t stamp, uint64_t first) {
  if (stamp < first) return false;
  if (stamp < shadow_clock.block) return true;
  if (stamp < shadow_clock.barrier) return false;
  const int thread = int(stamp & kThreadMask);
  if (thread == by.index) return false;
  const Warp& warp = *by.warp;
  if (thread / kLanes != warp.index) return true;
  return stamp >= warp.all && stamp >= warp.seen[by.lane][thread % kLanes];
}

// How much a reader that is not remembered as the last one adds: readers of other blocks and warps catch more writers.
int worth(const Thread& last, uint64_t stamp, uint64_t first) {
  if (stamp < first) return 0;
  if (stamp < shadow_clock.block) return 3;
  if (!unordered(last, stamp, first)) return 0;
  return int(stamp & kThreadMask) / kLanes == last.warp->index ? 1 : 2;
}

const char* verb(Access access) {
  return access == Access::kRead ? "read" : access == Access::kWrite ? "write" : "atomic access";
}

std::string what(Access access, uintptr_t address, size_t bytes) {
  return std::string(verb(access)) + " of " + std::to_string(bytes) + " bytes at " + place(address, bytes);
}

[[noreturn]] void fail_race(const Thread& by, uintptr_t address, size_t bytes, Access access, uint64_t stamp,
                            const char* earlier, const void* at) {
  const int thread = int(stamp & kThreadMask);
  if (stamp < shadow_clock.block)
    fail("race between blocks: " + what(access, address, bytes) + ", which " + thread_text(thread) +
             " of another block " + earlier,
         at);
  const bool warp = thread / kLanes == by.warp->index;
  fail("race in a block: " + what(access, address, bytes) + ", which " + thread_text(thread) + " " + earlier +
           (warp ? " with no __syncwarp or barrier between" : " with no barrier between"),
       at);
}

[[noreturn]] void fail_state(uintptr_t address, size_t bytes, Access access, uint8_t state, const void* at) {
  const std::string text = what(access, address, bytes);
  if (state & kCopying) fail("copy_async under way: " + text + ", before wait_copies", at);
  if (access != Access::kRead && !(state & kWritable)) fail("read-only memory: " + text, at);
  fail("uninitialised memory: " + text, at);
}

inline void remember_reader(const Thread& by, Cell& cell, uint64_t stamp, uint64_t first) {
  const uint64_t last = cell.read;
  cell.read = stamp;
  if (last < first || (last >= shadow_clock.block && (last & kThreadMask) == (stamp & kThreadMask))) return;
  if (worth(by, last, first) >= worth(by, cell.other, first)) cell.other = last;
}

// One access of a thread, as its cells see it.
struct Touch {
  const Thread& by;
  uintptr_t address;
  size_t bytes;
  const void* at;
  uint64_t stamp, first;
};

template <Access access>
inline void touch_cell(const Touch& t, Cell& cell) {
  if (unordered(t.by, cell.write, t.first) && !(access == Access::kAtomic && (cell.write & kAtomic)))
    fail_race(t.by, t.address, t.bytes, access, cell.write, "wrote", t.at);
  if (access == Access::kRead) return remember_reader(t.by, cell, t.stamp, t.first);
  if (unordered(t.by, cell.read, t.first)) fail_race(t.by, t.address, t.bytes, access, cell.read, "read", t.at);
  if (unordered(t.by, cell.other, t.first)) fail_race(t.by, t.address, t.bytes, access, cell.other, "read", t.at);
  cell.write = t.stamp;
}

// Bytes begin...end-1 of a word.
template <Access access>
inline void touch_word(const Touch& t, Span& span, size_t word, size_t begin, size_t end) {
  uint8_t& first_state = span.state[word * 4];
  const bool whole = begin == 0 && end == 4, split = first_state & kSplit;
  if (whole && !split) return touch_cell<access>(t, span.words[word]);
  Cell* const bytes = span.bytes + word * 4;
  if (!split) {
    for (int i = 0; i < 4; ++i) bytes[i] = span.words[word];
    first_state |= kSplit;
  }
  for (size_t i = begin; i < end; ++i) touch_cell<access>(t, bytes[i]);
  if (whole && access == Access::kWrite) {  // it comes after all that the cells know of
    span.words[word] = {t.stamp, 0, 0};
    first_state &= uint8_t(~kSplit);
  }
}

// Where there is no buffer: constants, the kernel's arguments, and faults.
template <Access access>
__attribute__((noinline)) void touch_outside(Thread& by, uintptr_t address, size_t bytes, const void* at) {
  if (access == Access::kRead && by.depth <= 1 && on_host_stack(address)) return;
  if (access == Access::kRead && is_constant(address, bytes)) return;
  fail("out-of-bounds " + what(access, address, bytes) + (on_any_fiber(address) ? ", another thread's stack" : ""), at);
}

// Whether all bytes are in buffers.
template <Access access>
inline bool check_states(uint8_t* state, uintptr_t address, size_t bytes, const void* at) {
  constexpr uint8_t kLook =
      kReadable | kCopying | (access != Access::kWrite ? kUnwritten : 0) | (access != Access::kRead ? kWritable : 0);
  constexpr uint8_t kWant = kReadable | (access != Access::kRead ? kWritable : 0);
  for (size_t i = 0; i < bytes; ++i) {
    if ((state[i] & kLook) != kWant) {
      if (!(state[i] & kReadable)) return false;
      fail_state(address, bytes, access, state[i], at);
    }
    if (access != Access::kRead) state[i] &= uint8_t(~kUnwritten);
  }
  return true;
}

template <Access access>
inline void touch_span(Thread& by, Span& span, uintptr_t address, size_t bytes, const void* at) {
  const size_t offset = address & (kSpanBytes - 1);
  if (offset + bytes > kSpanBytes) {
    const size_t here = kSpanBytes - offset;
    touch(by, address, here, access, at);
    return touch(by, address + here, bytes - here, access, at);
  }
  if (!check_states<access>(span.state + offset, address, bytes, at))
    return touch_outside<access>(by, address, bytes, at);
  const Touch t{by,
                address,
                bytes,
                at,
                shadow_clock.now | unsigned(by.index) | (access == Access::kAtomic ? kAtomic : 0),
                span.shared ? shadow_clock.block : shadow_clock.launch};
  for (size_t begin = offset; begin < offset + bytes;) {
    const size_t word = begin / 4, end = std::min(offset + bytes, word * 4 + 4);
    touch_word<access>(t, span, word, begin - word * 4, end - word * 4);
    begin = end;
  }
}

template <Access access>
inline void touch_any(Thread& by, uintptr_t address, size_t bytes, const void* at) {
  if (by.fiber.owns(address)) return;
  Span* span = find_span(address);
  if (span == nullptr) return touch_outside<access>(by, address, bytes, at);
  touch_span<access>(by, *span, address, bytes, at);
}

}  // namespace

void touch(Thread& by, uintptr_t address, size_t bytes, Access access, const void* at) {
  if (bytes == 0) return;
  if (access == Access::kRead) return touch_any<Access::kRead>(by, address, bytes, at);
  if (access == Access::kWrite) return touch_any<Access::kWrite>(by, address, bytes, at);
  touch_any<Access::kAtomic>(by, address, bytes, at);
}

template <size_t bytes>
void touch_fixed(Thread& by, uintptr_t address, Access access, const void* at) {
  if (bytes > 1 && address % bytes != 0) fail("misaligned " + what(access, address, bytes), at);
  if (access == Access::kRead) return touch_any<Access::kRead>(by, address, bytes, at);
  touch_any<Access::kWrite>(by, address, bytes, at);
}
template void touch_fixed<1>(Thread&, uintptr_t, Access, const void*);
template void touch_fixed<2>(Thread&, uintptr_t, Access, const void*);
template void touch_fixed<4>(Thread&, uintptr_t, Access, const void*);
template void touch_fixed<8>(Thread&, uintptr_t, Access, const void*);
template void touch_fixed<16>(Thread&, uintptr_t, Access, const void*);

void touch_atomically(void* at, size_t bytes) {
  touch(*current, uintptr_t(at), bytes, Access::kAtomic, __builtin_return_address(0));
}

void set_state(uintptr_t address, size_t bytes, uint8_t set, uint8_t clear) {
  for (size_t i = 0; i < bytes; ++i) {
    Span* span = find_span(address + i);
    uint8_t& state = span->state[(address + i) & (kSpanBytes - 1)];
    state = uint8_t((state | set) & ~clear);
  }
}

}  // namespace simt
