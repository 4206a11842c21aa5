// Which examples are in a row's mixture: those that are not ignored, or the m of them with the smallest keys.
//
// A set has a byte for each four examples, whose low bits are theirs. Cost of a subset: a quarter of a Philox block for
// each example, and 3 to 6 looks at its key.
#pragma once

#include "cuda/device/team.h"
#include "cuda/weights/gamma.h"

namespace multimix {

MULTIMIX_DEVICE uint32_t with_target(const Draw& draw, int quad) {
  uint32_t bits = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int i = quad * 4 + k;
    if (i < draw.b && !(draw.ignored && draw.ignored[i])) bits |= 1u << k;
  }
  return bits;
}

MULTIMIX_DEVICE uint32_t below(const uint4& keys, uint32_t limit) {
  return (keys.x < limit ? 1 : 0) | (keys.y < limit ? 2 : 0) | (keys.z < limit ? 4 : 0) | (keys.w < limit ? 8 : 0);
}

// The candidates' keys, and as many of their sets' bits.
struct KeyCounter {
  const Team<>& team;
  const uint4* keys;
  int quads;

  MULTIMIX_DEVICE int operator()(uint32_t limit) const {
    int count = 0;
#pragma unroll 1
    for (int quad = team.rank; quad < quads; quad += team.size) count += __popc(below(keys[quad], limit));
    return team.reduce(count, Add());
  }
};

// Of the keys equal to `key`, which are not all in, the first `missing` join those below. Nearly never needed.
MULTIMIX_DEVICE void break_ties(const uint4* keys, uint8_t* set, int quads, uint32_t key, int missing) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll 1
  for (int start = 0; start < quads; start += kWarp) {
    const int quad = start + lane;
    uint32_t equal = 0, in = 0;
    if (quad < quads) {
      const uint4 k = keys[quad];
      in = below(k, key);
      equal = (key == ~0u ? 15 : below(k, key + 1)) & ~in & set[quad];
    }
    const int mine = __popc(equal), upto = prefix_sum(mine, lane);
    int left = missing - (upto - mine);
    for (; equal != 0 && left > 0; --left, equal &= equal - 1) in |= equal & -equal;
    if (quad < quads) set[quad] = uint8_t(in);
    missing -= __shfl_sync(kAllLanes, upto, kWarp - 1);
  }
}

// Fills the set of a row. keys: room for the keys of 4 * quads examples. Ends with team.sync().
MULTIMIX_DEVICE void choose_examples(const Draw& draw, const Team<>& team, uint64_t seed, uint32_t location,
                                     uint64_t row, uint4* keys, uint8_t* set, int quads) {
  if (draw.m >= draw.b) {
#pragma unroll 1
    for (int quad = team.rank; quad < quads; quad += team.size) set[quad] = uint8_t(with_target(draw, quad));
    return team.sync();
  }
  int candidates = 0;
#pragma unroll 1
  for (int quad = team.rank; quad < quads; quad += team.size) {
    const Words<uint64_t> w = draw_words(seed, quad, location_word(location, kSubset, 0), row);
    const uint32_t bits = with_target(draw, quad);
    keys[quad] = uint4{bits & 1 ? uint32_t(w.w0) : ~0u, bits & 2 ? uint32_t(w.w1) : ~0u,
                       bits & 4 ? uint32_t(w.w2) : ~0u, bits & 8 ? uint32_t(w.w3) : ~0u};
    set[quad] = uint8_t(bits);
    candidates += __popc(bits);
  }
  team.sync();
  candidates = team.reduce(candidates, Add());
  if (candidates <= draw.m) return;
  // The m-th smallest key lies in [low, high): fewer than m keys are below low, more than m below high. Keys are
  // uniform, so interpolation is quick; every third trial halves the range.
  const KeyCounter count{team, keys, quads};
  uint64_t low = 0, high = uint64_t(1) << 32;
  int below_low = 0, below_high = candidates;
#pragma unroll 1
  for (int step = 1; high - low > 1; ++step) {
    uint64_t trial = (low + high) / 2;
    if (step % 3 != 0) {
      const float share = __fdividef(draw.m - below_low + 0.5f, float(below_high - below_low + 1));
      trial = low + uint64_t(float(high - low) * share);
      trial = trial <= low ? low + 1 : trial >= high ? high - 1 : trial;
    }
    const int found = count(uint32_t(trial));
    if (found == draw.m) {
#pragma unroll 1
      for (int quad = team.rank; quad < quads; quad += team.size)
        set[quad] = uint8_t(below(keys[quad], uint32_t(trial)));
      return team.sync();
    }
    if (found < draw.m) {
      low = trial, below_low = found;
    } else {
      high = trial, below_high = found;
    }
  }
  if (team.rank < kWarp) break_ties(keys, set, quads, uint32_t(low), draw.m - below_low);
  team.sync();
}

}  // namespace multimix
