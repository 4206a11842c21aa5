// Shuffles and votes by the formulas of the PTX ISA (shfl.sync, vote.sync, match.sync), and the order that __syncwarp
// makes.
#include "warps.h"

#include <algorithm>

#include "block.h"
#include "shadow.h"

namespace simt {
namespace {

struct Vote {
  bool predicate;
  uint32_t result;
};

void count_votes(Warp& warp, uint32_t mask) {
  uint32_t result = 0;
  for (int i = 0; i < warp.lanes; ++i)
    if (mask >> i & 1) result |= uint32_t(static_cast<Vote*>(warp.threads[i].request.operands)->predicate) << i;
  for (int i = 0; i < warp.lanes; ++i)
    if (mask >> i & 1) static_cast<Vote*>(warp.threads[i].request.operands)->result = result;
}

struct Match {
  uint32_t value, result;
};

void find_matches(Warp& warp, uint32_t mask) {
  const auto of = [&](int i) -> Match& { return *static_cast<Match*>(warp.threads[i].request.operands); };
  for (int i = 0; i < warp.lanes; ++i)
    for (int j = 0; j < warp.lanes; ++j)
      if (mask >> i & mask >> j & 1) of(i).result |= uint32_t(of(i).value == of(j).value) << j;
}

struct Moved {
  int source;  // the lane to read from
  uint64_t value, result;
};

void move(Warp& warp, uint32_t mask) {
  for (int i = 0; i < warp.lanes; ++i) {
    if (!(mask >> i & 1)) continue;
    Moved& to = *static_cast<Moved*>(warp.threads[i].request.operands);
    if (!(mask >> to.source & 1))
      fail(warp.threads[i].request.text() + ": lane " + std::to_string(i) + " reads lane " + std::to_string(to.source) +
           ", which the mask does not name");
    to.result = static_cast<Moved*>(warp.threads[to.source].request.operands)->value;
  }
}

void order_lanes(Warp& warp, uint32_t mask) {
  const uint64_t now = shadow_clock.tick();
  if (mask == 0xffffffffu) {
    warp.all = now;
    return;
  }
  uint64_t joined[kLanes] = {};
  for (int i = 0; i < kLanes; ++i)
    if (mask >> i & 1)
      for (int j = 0; j < kLanes; ++j) joined[j] = std::max(joined[j], warp.seen[i][j]);
  for (int i = 0; i < kLanes; ++i)
    if (mask >> i & 1) joined[i] = now;
  for (int i = 0; i < kLanes; ++i)
    if (mask >> i & 1) std::copy(joined, joined + kLanes, warp.seen[i]);
}

int source_lane(Shuffle kind, int lane, int argument, int width) {
  const int segment = lane & ~(width - 1), last = segment + width - 1;
  switch (kind) {
    case Shuffle::kIndex: return segment | (argument & (width - 1));
    case Shuffle::kUp: return lane - argument < segment ? lane : lane - argument;
    case Shuffle::kDown: return argument > last - lane ? lane : lane + argument;
    default: return ((lane ^ argument) & 31) > last ? lane : (lane ^ argument) & 31;
  }
}

constexpr const char* kShuffleNames[] = {"__shfl_sync", "__shfl_up_sync", "__shfl_down_sync", "__shfl_xor_sync"};

}  // namespace

void sync_warp(uint32_t mask, const char* file, int line) {
  meet({"__syncwarp", file, line, mask, nullptr}, order_lanes);
}

uint32_t ballot(const char* name, uint32_t mask, bool predicate, const char* file, int line) {
  Vote vote{predicate, 0};
  meet({name, file, line, mask, &vote}, count_votes);
  return vote.result;
}

uint32_t match(uint32_t mask, uint32_t value, const char* file, int line) {
  Match match{value, 0};
  meet({"__match_any_sync", file, line, mask, &match}, find_matches);
  return match.result;
}

uint64_t shuffle(Shuffle kind, uint32_t mask, uint64_t value, int argument, int width, const char* file, int line) {
  const char* name = kShuffleNames[int(kind)];
  if (width < 1 || width > kLanes || (width & (width - 1)) != 0)
    fail(std::string(name) + ": a width of " + std::to_string(width));
  if ((kind == Shuffle::kUp || kind == Shuffle::kDown) && (argument < 0 || argument > 31))
    fail(std::string(name) + ": a distance of " + std::to_string(argument));
  Moved moved{source_lane(kind, current->lane, argument, width), value, 0};
  meet({name, file, line, mask, &moved}, move);
  return moved.result;
}

}  // namespace simt
