// Which examples are in a row's mixture: those that are not ignored, or m of them by Floyd's sampling: pick t of q is
// random among the first K - q + t + 1 of K candidates, or the last of these if that one is picked already.
//
// A set has a byte for each four examples, whose low bits are theirs. The lanes of a warp are shared among the rows of
// a group: those of a row make as many picks at once, and find out together which are taken.
//
// Cost of a subset in lane-instructions: about 65 for each of at most b / 2 picks, of which 15 draw its word; a lane
// with nothing to pick costs the same. Where some are ignored or most are mixed, 10 for each example beside.
#pragma once

#include "cuda/device/team.h"
#include "cuda/weights/gamma.h"

namespace multimix {

// The bits of a quad's examples that are not ignored.
MULTIMIX_DEVICE uint32_t candidates(const Draw& draw, int quad) {
  uint32_t bits = 0;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    const int i = quad * 4 + k;
    if (i < draw.b && !(draw.ignored && draw.ignored[i])) bits |= 1u << k;
  }
  return bits;
}

MULTIMIX_DEVICE uint32_t contains(const uint8_t* set, uint32_t i) { return set[i / 4] >> i % 4 & 1; }

// Threads of a team that serve one row: a power of two.
MULTIMIX_DEVICE int row_threads(const Team<>& team, int rows) {
  int threads = team.size;
  if (!team.whole)
    while (threads * rows > kWarp) threads /= 2;
  return threads;
}

// Picks ranks among `count` for each row, into empty sets. words[t * rows + row]: that of pick t. By a warp.
MULTIMIX_DEVICE void pick_ranks(const Team<>& team, const uint32_t* words, uint8_t* sets, int rows, int quads,
                                int count, int picks) {
  const int lane = threadIdx.x % kWarp, lanes = min(row_threads(team, rows), kWarp), row = lane / lanes,
            own = lane & (lanes - 1);
  words += own * rows + row;
#pragma unroll 1
  for (int first = count - picks; first < count; first += lanes, words += lanes * rows) {
    const int last = first + own;
    const bool active = row < rows && last < count;
    const int rank = active ? int(__umulhi(*words, uint32_t(last + 1))) : 0;
    const uint32_t same = __match_any_sync(kAllLanes, active ? uint32_t(row) << 26 | uint32_t(rank) : ~0u);
    bool taken = active && ((same & ((1u << lane) - 1)) != 0 || contains(sets, row * quads * 4 + rank));
    // Also if an earlier lane takes it because what that one drew is taken.
    const int back = last - rank;
    const bool depends = active && back > 0 && back <= own;
    uint32_t before, all = __ballot_sync(kAllLanes, taken);
    do {
      before = all;
      taken = taken || (depends && (all >> (lane - back) & 1));
      all = __ballot_sync(kAllLanes, taken);
    } while (all != before);
    __syncwarp();
    if (active) {
      const uint32_t at = row * quads * 4 + (taken ? last : rank);
      atomicAdd(reinterpret_cast<uint32_t*>(sets) + at / 16, 1u << (at / 4 % 4 * 8 + at % 4));
    }
    __syncwarp();
  }
}

// Sets of ranks among `count` candidates, or of those that are not mixed, become sets of examples. By a warp. From the
// end on, as no rank is larger than its example.
MULTIMIX_DEVICE void name_examples(const Draw& draw, uint8_t* sets, int rows, int quads, int count, bool mixed) {
  const int lane = threadIdx.x % kWarp;
#pragma unroll 1
  for (int start = (quads - 1) / kWarp * kWarp; start >= 0; start -= kWarp) {
    const int quad = start + lane;
    const uint32_t bits = candidates(draw, quad);  // none past the last
    const int mine = __popc(bits), upto = prefix_sum(mine, lane);
    count -= __shfl_sync(kAllLanes, upto, kWarp - 1);
#pragma unroll 1
    for (int row = 0; row < rows; ++row) {
      uint8_t* set = sets + row * quads;
      int rank = count + upto - mine;
      uint32_t in = 0;
#pragma unroll
      for (int k = 0; k < 4; ++k)
        if (bits >> k & 1) in |= uint32_t((contains(set, rank++) != 0) == mixed) << k;
      __syncwarp();
      if (quad < quads) set[quad] = uint8_t(in);
      __syncwarp();
    }
  }
}

// Fills the sets of `rows` rows, of which the first is called `name`; a block has one row at a time. words: room for a
// word for each example of each row. Ends with team.sync().
MULTIMIX_DEVICE void choose_examples(const Draw& draw, const Team<>& team, uint64_t seed, uint32_t location,
                                     uint64_t name, uint32_t* words, uint8_t* sets, int rows, int quads) {
  int count = draw.b;
  if (draw.ignored) {
    count = 0;
#pragma unroll 1
    for (int quad = team.rank; quad < quads; quad += team.size) count += __popc(candidates(draw, quad));
    count = team.reduce(count, Add());
  }
  if (draw.m >= count) {
#pragma unroll 1
    for (int quad = team.rank; quad < quads; quad += team.size) {
      const uint32_t bits = candidates(draw, quad);
      for (int row = 0; row < rows; ++row) sets[row * quads + quad] = uint8_t(bits);
    }
    return team.sync();
  }
  const bool mixed = 2 * draw.m <= count;
  const int picks = mixed ? draw.m : count - draw.m;
#pragma unroll 1
  for (int i = team.rank; i < (rows * quads + 3) / 4; i += team.size) reinterpret_cast<uint32_t*>(sets)[i] = 0;
  const int threads = row_threads(team, rows), row = team.rank / threads;
  if (row < rows) {
    uint32_t* to = words + row;
#pragma unroll 1
    for (int word = team.rank % threads * 4; word < picks; word += threads * 4) {
      const Words<uint64_t> w = draw_words(seed, word / 4, location_word(location, kSubset, 0), name + row);
      const uint32_t four[] = {uint32_t(w.w0), uint32_t(w.w1), uint32_t(w.w2), uint32_t(w.w3)};
#pragma unroll
      for (int k = 0; k < 4; ++k) to[(word + k) * rows] = four[k];
    }
  }
  team.sync();
  if (team.rank < kWarp) {
    pick_ranks(team, words, sets, rows, quads, count, picks);
    if (draw.ignored || !mixed) name_examples(draw, sets, rows, quads, count, mixed);
  }
  team.sync();
}

}  // namespace multimix
