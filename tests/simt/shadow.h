// What is known of each byte that kernels may touch: who wrote and read it last, and whether it was written at all.
//
// Faults seen here: accesses outside the buffers, writes to those that are read-only, reads of bytes that nobody wrote
// or that a copy under way will write, and races: two accesses of a byte, one of them a write, by threads of two
// blocks, or by two threads of a block with no barrier (of one warp: no __syncwarp) between them. Of a byte's readers
// since the last barrier two are remembered, of different blocks or warps if there are such.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace simt {

struct Thread;
struct Warp;

// A stamp is a time, whether the access was atomic, and the thread's index. Time counts barriers, of blocks and of
// warps, since the program started; so times tell which block an access belongs to.
constexpr int kTimeShift = 11;
constexpr uint64_t kThreadMask = 1023, kAtomic = 1024;
struct Clock {
  uint64_t launch = 0, block = 0, barrier = 0;  // when each began, as stamps
  uint64_t now = uint64_t(1) << kTimeShift;

  uint64_t tick() { return now += uint64_t(1) << kTimeShift; }
};
extern Clock shadow_clock;

enum : uint8_t { kReadable = 1, kWritable = 2, kUnwritten = 4, kCopying = 8, kSplit = 16 };

// The last write, and two reads.
struct Cell {
  uint64_t write, read, other;
};

constexpr int kSpanBits = 20;
constexpr size_t kSpanBytes = size_t(1) << kSpanBits;

// The cells of a mebibyte of addresses: one for each word of 4 bytes or, once only a part of the word was accessed, one
// for each of its bytes (its first byte's state is kSplit). Pages exist once they are touched.
struct Span {
  uint8_t state[kSpanBytes];
  Cell words[kSpanBytes / 4];
  Cell bytes[kSpanBytes];
  size_t buffers;  // that lie in it, also in part
  bool shared;
};

// Null where no buffer is.
Span* find_span(uintptr_t address);

enum class Access { kRead, kWrite, kAtomic };

// Checks an access and remembers it.
void touch(Thread& by, uintptr_t address, size_t bytes, Access access, const void* at);
template <size_t bytes>
void touch_fixed(Thread& by, uintptr_t address, Access access, const void* at);

// The shared memory of the running block.
unsigned char* shared_begin();
void open_shared(size_t bytes);
void close_shared();
bool in_shared(uintptr_t address, size_t bytes);

// States of bytes, all in buffers.
void set_state(uintptr_t address, size_t bytes, uint8_t set, uint8_t clear);

// Where an address lies: "'scores' + 12", "shared + 128".
std::string place(uintptr_t address, size_t bytes);
// Whether a loaded module has this address among its constants.
bool is_constant(uintptr_t address, size_t bytes);
// The function, file and line of an instruction, as far as they can be found.
std::string code(const void* at);

}  // namespace simt
