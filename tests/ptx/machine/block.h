// A block of threads that executes, and the launch it belongs to.
#pragma once

#include <array>
#include <memory>
#include <random>

#include "shadow.h"
#include "warp.h"

namespace ptx {

struct Range {
  uint64_t begin, end;
  int writable;
};

struct Options {
  uint64_t seed;             // order of blocks and warps; 0: as they are numbered
  int check;                 // kFaults + kTraffic
  double approximate_error;  // 0 exact .. 1 the documented bound, the sign by seed
  uint64_t most_instructions;
};
constexpr int kFaults = 1;   // races, uninitialised reads: what costs time to see
constexpr int kTraffic = 2;  // counts of transactions and bank conflicts

struct Fault {
  std::string kind, text;
  int line;
  uint32_t block[3];
  int warp, lane;
  uint64_t times;
};

struct Counts {
  uint64_t classes[int(Class::Count)] = {};
  uint64_t global_sectors = 0;     // of 32 bytes
  uint64_t global_bytes = 0;       // asked for
  uint64_t shared_wavefronts = 0;  // passes over the 32 banks
  uint64_t bank_conflicts = 0;     // passes beyond the least
  uint64_t shared_bytes = 0;
};

struct Launch {
  const Module& module;
  const Kernel& kernel;
  uint32_t grid[3], threads[3];
  uint32_t dynamic_shared;
  std::vector<uint8_t> parameters;
  std::vector<Range> ranges;
  Options options;
  std::mt19937_64 random;
  std::vector<Fault> faults;
  Counts counts;
  uint64_t executed = 0;  // instructions of warps, with those that a predicate left out
  bool stop = false;      // after a fault that leaves nothing to go on with
  GlobalShadow global;

  Launch(const Module& module, const Kernel& kernel) : module(module), kernel(kernel) {}
  uint64_t blocks() const { return uint64_t{grid[0]} * grid[1] * grid[2]; }
  bool checks() const { return options.check & kFaults; }
};

// A numbered barrier (PTX ISA, bar and barrier).
struct Barrier {
  int arrived = 0;        // warps
  int expected = 0;       // warps; 0: all that have not left
  uint32_t waiting = 0;   // bits of warps
  uint32_t arrivals = 0;  // bits of warps, with those that do not wait
  int reduction = 0;      // of bar.red
  uint32_t count = 0;     // threads whose predicate holds
  uint32_t threads = 0;
  SharedShadow::Clock clock;  // what those that arrived did
};

struct Block {
  Launch& launch;
  uint32_t index[3];
  uint64_t number;  // in the grid
  std::vector<Warp> warps;
  std::vector<uint8_t> shared;  // static, then dynamic
  std::array<Barrier, 16> barriers;
  SharedShadow shadow;
  std::shared_ptr<void> family[4];  // state of a family in this block: 0 cp.async, 1 wgmma, 2 mbarrier, 3 free

  explicit Block(Launch& launch) : launch(launch) {}
  void run();
};

void run(Launch&);    // all blocks
void finish(Block&);  // after a warp has left: barriers that waited for it only

}  // namespace ptx
