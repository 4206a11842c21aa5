// Super-blocks of rows: weights in a scratch the size of a part of the L2 cache, whatever n is.
#pragma once

#include <algorithm>

#include "cuda/host/jobs.h"
#include "cuda/host/memory.h"

namespace multimix {

constexpr int64_t kPartialBytes = 17 << 20;  // partial sums of gradients

// sample.cu: bytes of the weights of a block, 16 MiB, which tests make small; and drawing them.
int64_t scratch_bytes();
void draw_block(const Context& context, const Draw& draw, Operand operand, const Block& block);

inline int64_t element_bytes(Operand operand) { return operand == Operand::kBF16 || operand == Operand::kF16 ? 2 : 4; }

// Draws every block of the call, those of the same locations one after the other, and hands each to work(block).
// most_places bounds the locations of a block; `attention`: with `plain` and `gradient`.
template <class Work>
void for_each_block(const Context& context, const Draw& draw, Operand operand, bool attention, int64_t most_places,
                    Work work) {
  const int width = round_up(draw.b, 16);
  const int64_t row_bytes = width * element_bytes(operand) + 12 + (attention ? 8 * width : 0);
  const int64_t budget = std::max<int64_t>(1, scratch_bytes() / (row_bytes * kRowTile));
  const int chunk = int(std::min(ceil_div(draw.n, kRowTile), budget)) * kRowTile;
  const int places = int(std::max<int64_t>(1, std::min({int64_t(draw.r), most_places, budget * kRowTile / chunk})));
  const int64_t count = int64_t(places) * chunk;
  Block block{};
  block.width = width;
  block.weights = context.memory(size_t(count * width * element_bytes(operand)));
  block.inverse = context.make<float>(count);
  block.plain = attention ? context.make<float>(count * width) : nullptr;
  block.gradient = attention ? context.make<float>(count * width) : nullptr;
  for (block.first_location = 0; block.first_location < draw.r; block.first_location += places) {
    block.places = std::min(places, draw.r - block.first_location);
    for (block.first = 0; block.first < draw.n; block.first += chunk) {
      block.rows = int(std::min<int64_t>(chunk, draw.n - block.first));
      block.stored = round_up(block.rows, kRowTile);
      block.last = block.first + chunk >= draw.n;
      draw_block(context, draw, operand, block);
      work(block);
    }
  }
}

}  // namespace multimix
