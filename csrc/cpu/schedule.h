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

constexpr int64_t kTileBytes = 384 << 10;    // of second-level cache for one tile
constexpr int64_t kWaveBytes = 32 << 20;     // for the panels and partial gradients of a wave
constexpr int64_t kNearBytes = 512 << 10;    // of a wave of locations with little work
constexpr double kLittleNs = 20e3;           // for the rows of a location
constexpr int64_t kLongTileBytes = 4 << 20;  // of a tile whose rows do not fit
constexpr int64_t kTaskBytes = 24 << 20;     // for the tiles of all tasks that run at a time
constexpr int64_t kMinRows = 128;            // of a group: fewer would spend their time on adding up
constexpr int64_t kMaxTasks = 32;            // wanted in a wave

// What decides whether other threads are woken: nanoseconds of one thread, about, in float and on this instruction set.
constexpr double kNarrow = 64.0 / MULTIMIX_VECTOR_BYTES;
constexpr double kGammaNs = 5 * kNarrow;
constexpr double kLogitNs = 1.5 * kNarrow;     // its part of a row's loss
constexpr double kProductNs = 0.02 * kNarrow;  // a multiply-add of a product

template <class Body>
void parallel(ParallelFor run, int64_t count, const Body& body, double ns = 0) {
  run(
      count, ns,
      [](int64_t begin, int64_t end, void* context) {
        for (int64_t i = begin; i < end; ++i) (*static_cast<const Body*>(context))(i);
      },
      const_cast<void*>(static_cast<const void*>(&body)));
}

// What a loop over rows needs: bytes of memory, and bounds.
struct Load {
  int64_t n, r;              // rows, and locations
  int64_t row_bytes = 0;     // of a tile, for each of its rows
  int64_t task_bytes = 0;    // of a task beside its tile
  int64_t shared_bytes = 0;  // of a wave, for each location
  int64_t group_bytes = 0;   // of a wave, for each group
  int64_t most_groups = kMaxTasks;
  double row_ns = 0;  // of one thread, for each row; 0 if that is not known
};

struct Schedule {
  int64_t tile;     // rows of a tile
  int64_t groups;   // of each location
  int64_t rows;     // of a group
  int64_t wave;     // locations at a time
  int64_t at_once;  // tasks at a time
  double row_ns;

  explicit Schedule(const Load& x) : row_ns(x.row_ns) {
    tile = std::clamp(kTileBytes / x.row_bytes / kRows * kRows, int64_t(2 * kRows), int64_t(128));
    // Long rows leave the cache anyway; a few at a time bound the memory.
    tile = std::clamp(kLongTileBytes / x.row_bytes, int64_t(1), tile);
    const int64_t wanted = std::min((kMaxTasks + x.r - 1) / x.r, x.most_groups);
    const int64_t affordable =
        std::max<int64_t>((kWaveBytes - x.shared_bytes) / std::max<int64_t>(x.group_bytes, 1), 1);
    groups = std::min({(x.n + kMinRows - 1) / kMinRows, wanted, affordable});
    rows = (x.n + groups - 1) / groups;
    groups = (x.n + rows - 1) / rows;
    wave = std::clamp(kWaveBytes / (x.shared_bytes + groups * x.group_bytes + 1), int64_t(1), x.r);
    // Few rows: a location costs what its memory does, the less the nearer that is.
    if (row_ns > 0 && double(x.n) * row_ns < kLittleNs)
      wave = std::clamp(kNearBytes / (x.shared_bytes + x.group_bytes + 1), int64_t(1), wave);
    at_once = std::clamp(kTaskBytes / (std::min(tile, rows) * x.row_bytes + x.task_bytes), int64_t(1), wave * groups);
  }

  // body(k, group) for every group of the wave's first `count` locations.
  template <class Body>
  void for_each_group(ParallelFor run, int64_t count, const Body& body) const {
    for (int64_t done = 0; done < count * groups; done += at_once)
      parallel(
          run, std::min(at_once, count * groups - done),
          [&](int64_t k) { body((done + k) / groups, (done + k) % groups); }, rows * row_ns);
  }
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
