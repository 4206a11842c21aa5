// Memory traffic of a warp's instruction: sectors of 32 bytes of global memory, passes over the banks of shared memory.
#include <algorithm>

#include "memory.h"

namespace ptx {
namespace {

constexpr int kSector = 32, kBanks = 32, kWord = 4;

int distinct(uint64_t* values, int count) {
  std::sort(values, values + count);
  return int(std::unique(values, values + count) - values);
}

// Lanes are served together as long as they ask for at most 128 bytes: 32, 16 or 8 of them. Each pass gives one word of
// each bank, to all lanes that ask for it.
int passes(const Accesses& accesses, int bytes, int first, int lanes) {
  uint64_t words[kLanes * 2];
  int count = 0;
  for (int lane = first; lane < first + lanes; ++lane) {
    if (!(accesses.good >> lane & 1)) continue;
    for (uint64_t word = accesses.address[lane] / kWord; word <= (accesses.address[lane] + bytes - 1) / kWord; ++word)
      words[count++] = word;
  }
  count = distinct(words, count);
  int banks[kBanks] = {}, most = 0;
  for (int k = 0; k < count; ++k) most = std::max(most, ++banks[words[k] % kBanks]);
  return most;
}

}  // namespace

void count_traffic(Warp& warp, const Accesses& accesses, int bytes) {
  Counts& counts = warp.block.launch.counts;
  if (!accesses.good) return;
  if (accesses.space == Space::Global) {
    uint64_t sectors[kLanes];
    int count = 0;
    each(accesses.good, [&](int lane) { sectors[count++] = accesses.address[lane] / kSector; });
    counts.global_bytes += uint64_t(count) * bytes;
    counts.global_sectors += distinct(sectors, count);
  } else if (accesses.space == Space::Shared) {
    const int lanes = bytes <= kWord ? kLanes : std::max(1, kLanes * kWord / bytes);
    for (int first = 0; first < kLanes; first += lanes) {
      const int wavefronts = passes(accesses, bytes, first, lanes);
      counts.shared_wavefronts += wavefronts;
      counts.bank_conflicts += std::max(0, wavefronts - 1);
    }
    counts.shared_bytes += uint64_t(__builtin_popcount(accesses.good)) * bytes;
  }
}

}  // namespace ptx
