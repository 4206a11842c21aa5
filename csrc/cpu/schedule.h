// How rows are shared out: fixed by the shapes alone, so that results do not depend on the number of threads.
//
// The rows of each location are cut into groups; a group is one task, works in tiles of rows that stay in cache, and
// has partial gradients of its own, which are added up in order. Locations are taken in waves that bound the memory.
#pragma once

#include <algorithm>

#include "cpu/jobs.h"
#include "cpu/memory.h"
#include "cpu/products.h"

namespace multimix {
namespace MULTIMIX_ISA {

constexpr int64_t kTileBytes = 384 << 10;  // of second-level cache for one tile
constexpr int64_t kWaveBytes = 32 << 20;   // for the panels and partial gradients of a wave
constexpr int64_t kMinRows = 128;          // of a group: fewer would spend their time on adding up
constexpr int64_t kMaxTasks = 32;          // wanted in a wave

template <class Body>
void parallel(ParallelFor run, int64_t count, const Body& body) {
  run(
      count,
      [](int64_t begin, int64_t end, void* context) {
        for (int64_t i = begin; i < end; ++i) (*static_cast<const Body*>(context))(i);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

struct Schedule {
  int64_t tile;    // rows of a tile
  int64_t groups;  // of each location
  int64_t rows;    // of a group
  int64_t wave;    // locations at a time

  // row_bytes: of a tile for each row; shared_bytes: of a wave for each location; group_bytes: for each group.
  Schedule(int64_t n, int64_t r, int64_t row_bytes, int64_t shared_bytes, int64_t group_bytes) {
    tile = std::clamp(kTileBytes / row_bytes / kRows * kRows, int64_t(2 * kRows), int64_t(128));
    const int64_t wanted = (kMaxTasks + r - 1) / r;
    const int64_t affordable = std::max<int64_t>((kWaveBytes - shared_bytes) / std::max<int64_t>(group_bytes, 1), 1);
    groups = std::min({(n + kMinRows - 1) / kMinRows, wanted, affordable});
    rows = (n + groups - 1) / groups;
    groups = (n + rows - 1) / rows;
    wave = std::clamp(kWaveBytes / (shared_bytes + groups * group_bytes + 1), int64_t(1), r);
  }
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
