// weights/: draws mu (r, n, b), the same numbers as stream.h names, into shared memory (this file) or device memory
// (sample.cu). May include stream.h, host/ and device/ only. Letters: a row is a mixture k of n, a pair or quad of
// examples is 2 or 4 neighbours i of b, a location is one of r; a team draws a `group` of rows at a time.
//
// Weights of a tile of rows, drawn by one block into its shared memory. What every kernel that draws weights calls.
//
// A team draws some rows at a time: a warp, or the whole block where rows are long. First their gammas (gamma_rows.h),
// of a set of examples if some are left out (subset.h), then the rows' weights (row_weights.h). Cost of a weight with
// the hardware's arithmetic: about 90 lane-instructions if a warp has 8 rows of 128, of which 60 draw a gamma; no
// memory but shared memory.
#pragma once

#include "cuda/weights/gamma_rows.h"
#include "cuda/weights/row_weights.h"

namespace multimix {

constexpr int kLongRow = 1024;       // wider rows are drawn by all warps of a block together
constexpr int kTeamElements = 1024;  // of a warp at a time: a bit for each in a lane's word, rejects for a full warp

// Where things lie in the scratch of a block.
struct SamplerLayout {
  bool whole;        // the block is one team
  int group, pitch;  // rows that a team draws at a time; their raw elements
  int stored;        // raw elements of a team
  size_t starts, queues, sets, raw, bytes;

  MULTIMIX_INLINE constexpr SamplerLayout(int rows, const Draw& draw, int warps)
      : whole(draw.b > kLongRow),
        group(1),
        pitch((draw.b + 3) / 4 * 4),
        stored(0),
        starts(128),  // behind the sums of warps
        queues(0),
        sets(0),
        raw(0),
        bytes(0) {
    const int share = (rows + warps - 1) / warps, most = kTeamElements / (pitch > 32 ? pitch : 32);
    if (!whole) group = share < most ? share : most;
    const size_t teams = whole ? 1 : warps;
    queues = starts + size_t(warps) * group * sizeof(RowStart<FloatPair>);
    raw = queues + size_t(warps) * kQueue * sizeof(uint32_t);
    // Each team's part ends with room for what a warp draws past its last row.
    stored = (group * pitch + 63) / 64 * 64;
    sets = raw + teams * stored * sizeof(float);
    bytes = sets + (draw.ignored || draw.m < draw.b ? teams * (stored / 4) : 0);
  }
};

// Bytes of scratch that draw_rows needs with up to `threads` threads.
MULTIMIX_INLINE constexpr size_t sampler_bytes(int rows, const Draw& draw, int threads = 1024) {
  size_t most = 0;
  for (int warps = 1; warps <= threads / 32; ++warps) {
    const size_t bytes = SamplerLayout(rows, draw, warps).bytes;
    most = bytes > most ? bytes : most;
  }
  return most;
}

// Rows first ... first + rows - 1 of a location, by all threads of the block (whole warps). The tile's width and
// pitches are multiples of 4, and its rows aligned to 4 elements; a dense one is real instead (width = pitch = b, no
// row past n), without `inverse` and `plain`. Ends with a barrier and begins with none. Concentrations of single
// examples are drawn in log space only.
template <Operand operand, Arithmetic arithmetic, RowLayout layout = RowLayout::kAligned>
MULTIMIX_DEVICE void draw_rows(const Draw& draw, int location, int64_t first, int rows, void* scratch,
                               const WeightTile<operand>& tile) {
  unsigned char* memory = static_cast<unsigned char*>(scratch);
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  const SamplerLayout places(rows, draw, warps);
  const bool whole = places.whole, some = draw.ignored || draw.m < draw.b;
  const int group = places.group, index = whole ? 0 : warp, pairs = places.pitch / 2, quads = places.pitch / 4;
  const Team<> team{whole, whole ? int(threadIdx.x) : lane, whole ? int(blockDim.x) : kWarp, memory};
  using R = Raw<arithmetic>;
  R* raw = reinterpret_cast<R*>(memory + places.raw) + index * places.stored;
  uint8_t* sets = some ? memory + places.sets + index * (places.stored / 4) : nullptr;
  Sampler<arithmetic> sampler{draw};
  sampler.seed = uint64_t(*draw.seed), sampler.location = uint32_t(location);
  sampler.lane = lane, sampler.pairs = pairs, sampler.minus_pairs = -pairs;
  sampler.reciprocal = 0xFFFFFFFFu / uint32_t(pairs) + 1;
  sampler.start = whole ? warp * kWarp : 0, sampler.stride = whole ? int(blockDim.x) : kWarp;
  sampler.starts = reinterpret_cast<RowStart<Real<arithmetic>>*>(memory + places.starts) + warp * group;
  sampler.queue = reinterpret_cast<uint32_t*>(memory + places.queues) + warp * kQueue;
  sampler.sets = sets, sampler.raw = raw;
  RowWeights<operand, arithmetic> weights{
      draw, team, draw.attention ? draw.attention + int64_t(location) * draw.b : nullptr, 1, raw, places.pitch, sets};
  if (draw.attention && !some)
    weights.largest =
        weights.largest_attention(nullptr, {team.rank, team.size, kWarp, quads, nullptr, nullptr, nullptr});
  for (int base = index * group; base < rows; base += whole ? 1 : warps * group) {
    const int count = group < rows - base ? group : rows - base;
    const int64_t left = draw.n - (first + base);
    const int valid = left >= count ? count : left > 0 ? int(left) : 0;
    const uint64_t name = uint64_t(draw.row_offset) + uint64_t(first + base);
    sampler.begin(valid, name);
    if (some)
      choose_examples(draw, team, sampler.seed, uint32_t(location), name, reinterpret_cast<uint32_t*>(raw), sets, valid,
                      quads);
    sampler.draw_gammas(valid, name);
    team.sync();
    if (draw.b % 4 != 0) {
      const int spare = places.pitch - draw.b;
      for (int i = team.rank; i < valid * spare; i += team.size)
        raw[i / spare * places.pitch + draw.b + i % spare] = raw_zero<arithmetic>();
      team.sync();
    }
    weights.template finish<layout>(count, valid, tile.from(base));
    team.sync();
  }
  __syncthreads();
}

}  // namespace multimix
