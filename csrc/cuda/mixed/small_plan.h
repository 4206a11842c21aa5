// Shapes of the single-pass mixed cross-entropy: which sizes it takes, and with how many threads and rows to a tile.
#pragma once

#include <algorithm>

#include "cuda/host/blocks.h"
#include "cuda/weights/draw.h"

namespace multimix {

// Of a kernel: the most warps of a block, and what one warp keeps in registers beside what drawing weights takes.
struct SmallLimits {
  int warps;
  int depth;  // of the gradient: 32 examples by `depth` times 16 classes
  int pairs;  // of mixed scores and of targets: 16 rows by `pairs` times 16 classes
};
// Accurate logarithms, log space and split operands take so many registers that only 8 warps live on a multiprocessor.
constexpr SmallLimits small_limits(Operand operand, Arithmetic arithmetic) {
  if (arithmetic != Arithmetic::kHardware || operand == Operand::kFP32) return {8, 4, 2};
  return {16, 2, operand == Operand::kTF32 ? 1 : 2};
}

// Warps of a block and rows of its tile. 128 registers a thread let 16 warps live on a multiprocessor: as two blocks,
// which wait for fewer of each other, or as one, which keeps twice the gradient.
struct SmallShape {
  int warps, rows;
};
constexpr SmallShape kSmallShapes[] = {{8, 64}, {8, 32}, {8, 16}, {16, 64}, {16, 32}, {16, 16}};

// Larger sizes never fit.
constexpr int kSmallMost = 1024;
constexpr int64_t kSmallPartialBytes = 32 << 20;
constexpr int kSmallWaves = 4;  // of blocks, where locations share out badly

// Offsets in shared memory, in bytes.
struct SmallLayout {
  size_t scores, targets, tiles, delta, scratch, mass, inverse, share, top, sum, loss, state, bytes;
};

struct SmallPlan {
  bool fits = false;
  int warps = 0, rows = 0;
  int width = 0, pitch = 0;          // of a row of weights
  int classes = 0, class_pitch = 0;  // of a row of scores, of targets, of delta
  int places = 0, splits = 0;        // locations of a launch, blocks of a location
  SmallLayout layout{};
};

inline SmallLayout small_layout(const SmallPlan& p, Operand operand, const Draw& draw, bool gradient) {
  const size_t element = size_t(element_bytes(operand)), parts = operand == Operand::kBF16 ? 2 : 1;
  SmallLayout l{};
  const auto take = [&](size_t bytes) {
    const size_t at = l.bytes;
    l.bytes += (bytes + 15) / 16 * 16;
    return at;
  };
  l.scores = take(size_t(p.width) * p.class_pitch * element);
  l.targets = take(size_t(p.width) * p.class_pitch * element);
  l.tiles = take(size_t(2) * p.rows * p.pitch * element);
  l.delta = take(gradient ? parts * p.rows * p.class_pitch * element : 0);
  l.scratch = take(SamplerLayout(p.rows, draw, p.warps).bytes);
  l.mass = take(p.width * sizeof(float));
  l.inverse = take(p.rows * sizeof(float));
  l.share = take(p.rows * sizeof(float));
  const size_t groups = size_t(p.warps) * 16 * sizeof(float);
  l.top = take(groups), l.sum = take(groups), l.loss = take(groups);
  l.state = take(p.rows * 4 * sizeof(float));
  return l;
}

// Whether a block has the warps, and their registers hold the mixed scores and the gradient.
inline bool small_fits(const SmallPlan& p, const SmallLimits& limits, bool gradient) {
  const int pairs = p.classes / 16, groups = p.warps / (p.rows / 16), strips = p.width / 32;
  if (p.warps > limits.warps || pairs > groups * limits.pairs) return false;
  return !gradient || (strips <= p.warps && pairs <= p.warps / strips * limits.depth);
}

// The quickest of the shapes that fit, by a rough count of time in rows: a tile costs about 8 rows more than it has,
// and a block about 48 to begin and to end. A second block on a multiprocessor halves a block's speed, and hides its
// waits.
inline SmallPlan small_plan(const Context& context, const Draw& draw, Operand operand, int c, bool gradient) {
  SmallPlan best{};
  if (draw.b > kSmallMost || c > kSmallMost) return best;
  const SmallLimits limits = small_limits(operand, draw.arithmetic);
  double best_cost = 0;
  for (const SmallShape shape : kSmallShapes) {
    SmallPlan p{};
    p.warps = shape.warps, p.rows = shape.rows;
    p.width = round_up(draw.b, 32), p.classes = round_up(c, 16);
    p.pitch = p.width + 8;
    p.class_pitch =
        p.classes + (element_bytes(operand) == 4 ? 4 : 8);  // free of bank conflicts, as are rows of weights
    p.fits = small_fits(p, limits, gradient);
    if (!p.fits) continue;
    p.layout = small_layout(p, operand, draw, gradient);
    if (p.layout.bytes > context.shared_limit) continue;
    const bool two = 2 * p.warps <= limits.warps && 2 * (p.layout.bytes + 1024) <= context.shared_limit + 1024;
    const int64_t resident = context.processors * (two ? 2 : 1), tiles = ceil_div(draw.n, p.rows);
    const int64_t partial = std::max<int64_t>(1, kSmallPartialBytes / (4 * int64_t(p.classes) * p.width));
    p.places = int(std::min<int64_t>(draw.r, partial));
    for (int waves = 1; waves <= kSmallWaves; ++waves) {
      p.splits = int(std::max<int64_t>(1, std::min({tiles, waves * resident / p.places, partial / p.places})));
      const int64_t blocks = int64_t(p.places) * p.splits;
      const double speed = p.warps == 16 ? 0.8 : two && blocks > context.processors ? 0.5 : 0.6;
      const double rows = double(ceil_div(tiles, p.splits)) * (p.rows + 8) + 48;
      const double cost = double(ceil_div(blocks, resident)) * rows / speed;
      if (!best.fits || cost < best_cost) best = p, best_cost = cost;
    }
  }
  return best;
}

// What the kernel works on.
struct SmallJob {
  Draw draw;
  SmallPlan plan;
  Target target;
  Strided values;  // scores (r, b, c)
  int first_location;
  const float* grad_rows;  // (r, n), or null
  float* rows;             // (r, n), or null
  double* sums;            // (places, splits): slots of the row losses, or null
  float* partial;          // (places, splits, classes, width), or null
};

}  // namespace multimix
