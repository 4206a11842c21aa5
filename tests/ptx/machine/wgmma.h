// State of wgmma (PTX ISA 9.7.15) in a block, for its checks.
#pragma once

#include <unordered_map>

#include "block.h"

namespace ptx {

// What a register holds of asynchronous products.
struct Watched {
  uint32_t group = 0;     // the product that writes it is in this group of the warp, counted from 1; 0: none
  uint32_t reader = 0;    // the same of the last product that reads it as A
  uint32_t fence = 0;     // written by another instruction after so many wgmma.fence, less one; 0: never
  bool constant = false;  // by a move of a constant
};

struct Reads {
  int warp;
  uint32_t group;
  std::vector<uint32_t> rows;  // addresses in shared memory, of 16 bytes each
};

struct WarpProducts {
  uint32_t groups = 1;    // the group that is open
  uint32_t finished = 0;  // the last one that was waited for
  uint32_t fences = 0;    // wgmma.fence, executed
  uint32_t fenced = 0;    // the same when the last group was closed
  std::unordered_map<int, Watched> registers;
  // fence.proxy.async: the last store before it, and what was ordered before it.
  uint32_t proxy_fence = 0;
  std::vector<uint32_t> proxy_known;

  bool pending(uint32_t group) const { return group > finished; }
};

struct Products {
  std::vector<WarpProducts> warps;
  std::vector<Reads> reads;  // of groups that were not waited for
};

Products& products_of(Block&);
inline WarpProducts& products_of(Warp& warp) { return products_of(warp.block).warps[warp.index]; }

}  // namespace ptx
