// What is remembered of memory to see races and reads of what nobody wrote.
#pragma once

#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

namespace ptx {

struct Warp;

// Shared memory of a block. Time is a counter of the events that order accesses (barriers); `known[w * warps + r]` is
// the time up to which what warp r did is ordered before what warp w does now. What a warp did at time t is ordered if
// t <= known. Within a warp, lanes are ordered by bar.warp.sync and by barriers: what was done after `warp_sync[w]` is
// not yet ordered for the other lanes.
struct SharedShadow {
  int warps = 0;
  uint32_t time = 1;
  uint32_t begin = 1;                // of this block
  std::vector<uint32_t> known;       // [warps][warps]
  std::vector<uint32_t> warp_sync;   // [warps]
  std::vector<uint32_t> written;     // [bytes]: time << 10 would not do for long kernels: time only
  std::vector<uint16_t> writer;      // [bytes]: warp * 32 + lane
  std::vector<uint32_t> read;        // [warps][bytes]: time * 64 + lane, 63 for several lanes
  std::vector<uint32_t> instruction;  // [bytes]: number of the store instruction that wrote it last
  std::vector<uint8_t> pending;      // [bytes]: an asynchronous copy into it is under way: 1; read by one: 2
  uint32_t number = 0;               // of the store instruction

  void start(int warps, size_t bytes);  // a new block
  // `arrivals` come before what the warps of `waiting` do next.
  void barrier(uint32_t arrivals, uint32_t waiting);
  void sync_warp(int warp);
};

// Between an asynchronous copy's start and the wait for it: a read or write of these bytes is a fault.
void set_pending(Warp&, uint32_t address, int bytes, bool pending);

// Global memory that the launch may write: which blocks wrote and read each byte.
struct GlobalShadow {
  static constexpr int kPage = 4096;
  struct Page {
    uint32_t writer[kPage] = {};  // number of the block + 1
    uint32_t reader[kPage] = {};  // the same; kSeveral
  };
  static constexpr uint32_t kSeveral = ~0u;
  std::unordered_map<uint64_t, std::unique_ptr<Page>> pages;
};

}  // namespace ptx
