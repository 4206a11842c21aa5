// What is remembered of memory to see races and reads of what nobody wrote.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace ptx {

struct Warp;

// Shared memory of a block. Time counts the events that order accesses: warps that arrive at barriers, and
// bar.warp.sync. What warp r did at time t comes before what warp w does now if t <= known[w][r]; what another lane of
// the same warp did, if t < warp_sync[w].
struct SharedShadow {
  using Clock = std::vector<uint32_t>;  // a time for each warp

  int warps = 0;
  size_t bytes = 0;
  uint32_t time = 0;
  uint32_t begin = 1;                 // of this block: what was written before counts as not written
  std::vector<uint32_t> known;        // [warps][warps]
  std::vector<uint32_t> warp_sync;    // [warps]
  std::vector<uint32_t> written;      // [bytes]: time
  std::vector<uint16_t> writer;       // [bytes]: warp * 32 + lane
  std::vector<uint32_t> instruction;  // [bytes]: number of the store that wrote it last
  std::vector<uint8_t> atomic;        // [bytes]: whether that was atomic
  std::vector<uint32_t> read;         // [warps][bytes]: time * 64 + lane; kSeveral for more than one lane
  std::vector<uint8_t> pending;       // [bytes]: 1 an asynchronous copy into it is under way, 2 something reads it
  uint32_t number = 0;                // of stores

  // A store that races with another access, which does no harm if it changes nothing: threads that hold the same
  // element all store it.
  struct Doubt {
    int lane;
    uint32_t address;
    uint8_t before;
    int writer;  // the thread whose store it races with; -1 - warp: a read
  };
  std::vector<Doubt> doubts;  // of the store at work, before its values are written

  static constexpr uint32_t kSeveral = 63;

  void start(int warps, size_t bytes);    // a new block
  void arrive(Clock& barrier, int warp);  // what it did is before what those that pass will do
  void pass(const Clock& barrier, int warp);
  void sync_warp(int warp);
};

// After a store: its races that changed a value are faults.
void settle(Warp&);

// Between an asynchronous copy's start and the wait for it: a read or write of these bytes is a fault.
void set_pending(Warp&, uint32_t address, int bytes, bool pending);

// Global memory that may be written: which blocks wrote and read each byte. Blocks have no order.
struct GlobalShadow {
  static constexpr int kPage = 4096;
  static constexpr uint32_t kSeveral = 0x7fffffff, kAtomic = 0x80000000;
  struct Page {
    uint32_t writer[kPage] = {};  // number of the block + 1 or kSeveral; + kAtomic
    uint32_t reader[kPage] = {};  // number of the block + 1 or kSeveral
  };
  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;
  uint64_t last = ~uint64_t{0};  // the page that was used last
  Page* page = nullptr;

  Page& of(uint64_t address);
};

}  // namespace ptx
