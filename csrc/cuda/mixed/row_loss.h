// Losses of rows from the parts of their log-sum-exp, and the state that gradients need.
//
// With labels, unless by class, each example's label has its logit l mixed again, from score rows gathered by label:
//   loss_k = keep sum_e mu_ke (lse_k - l_ke) + uniform share_k (c lse_k - sum_j logit_kj)
// Nothing cancels, and no matrix of examples by examples is stored. By class, the normaliser has mixed the targets.
//
// Cost per row: a product of 2 b b operations (none by class); bytes: weights twice from the L2 cache, 16 for each part
// and 16 of state. Lane-instructions on sm_80: 10 per weight beside those of the product.
#pragma once

#include "cuda/device/team.h"
#include "cuda/mixed/large.h"
#include "cuda/mixed/scores.h"
#include "cuda/sums/loss.h"

namespace multimix {

// What a block does with a tile of rows; its threads and rows are those of the normaliser.
template <Operand operand, bool by_class>
struct RowLoss {
  using T = Element<operand>;
  using S = Stage<operand>;
  using Shape = TileShape<operand, by_class>;
  using Tile = typename Shape::Sums;  // (rows, examples)
  static constexpr int kRows = Shape::kRows, kThreads = Shape::kThreads;
  static_assert(kThreads >= kTile, "a thread for each example of a tile");

  struct Shared {
    float examples[2][3][kTile];  // mass, whether there is a label (0 or 1), sum of scores
    float sums[kWarpColumns][3][kRows];
    float lse[kRows];
    float warps[kRows / kWarp];
  };
  static constexpr size_t kStages = by_class ? 0 : 4 * S::kAlongSize * sizeof(T);
  static constexpr size_t kBytes = kStages + sizeof(Shared);  // of shared memory

  // Begins and ends without a barrier.
  static MULTIMIX_DEVICE void run(const LargeJob& job, int place, int row, const RowPart* parts, int part_count) {
    const int64_t stored = job.block.stored, base = place * stored + row;  // of the rows of this tile
    const int width = job.block.width, lane = threadIdx.x % kWarp;
    T* stages = reinterpret_cast<T*>(shared_memory());
    Shared& shared = *reinterpret_cast<Shared*>(shared_memory() + kStages);
    const Matrix<T> weights = job.weights<T>(place), scores = job.score_rows<T>(place);

    float on_target = 0;  // of row threadIdx.x, in units of ln 2
    if (threadIdx.x < kRows) {
      const RowPart* part = parts + place * part_count * stored + row + threadIdx.x;
      float top = kLeast, z = 0;
      for (int p = 0; p < part_count; ++p) top = fmaxf(top, part[p * stored].top);
      for (int p = 0; p < part_count; ++p) z += part[p * stored].z * fast_exp2(part[p * stored].top - top);
      const float lse = top + log2f(z);
      shared.lse[threadIdx.x] = lse;
      if (by_class) {
        for (int p = 0; p < part_count; ++p) {
          const RowPart x = part[p * stored];
          on_target += (x.mass == 0 ? 0.0f : x.mass * (lse - x.top)) - x.product;
        }
      }
    }
    __syncthreads();

    float scale[Tile::kRows], lse[Tile::kRows], loss[Tile::kRows], share[Tile::kRows], score_sum[Tile::kRows];
    Tile::for_rows([&](int q) {
      const int i = Tile::first_row() + q * 8;
      scale[q] = job.block.inverse[base + i] * kLogitUnit<operand>, lse[q] = shared.lse[i];
      loss[q] = 0, share[q] = 0, score_sum[q] = 0;
    });
    Tile logits;
    logits.clear();
    const T* own = weights.data + int64_t(row + Tile::first_row()) * width;
    const auto load_examples = [&](int first, int buffer) {
      const int x = threadIdx.x, example = first + x;
      if (x >= kTile) return;
      const bool inside = example < job.b, smooth = inside && job.score_sums != nullptr;
      shared.examples[buffer][0][x] = inside ? job.mass[int64_t(place) * job.b + example] : 0.0f;
      shared.examples[buffer][1][x] = !by_class && job.labels(example) >= 0 ? 1.0f : 0.0f;
      shared.examples[buffer][2][x] = smooth ? job.score_sums[int64_t(place) * job.b + example] : 0.0f;
    };
    // Sums over examples, of unnormalised weights.
    const auto add_examples = [&](int first, int buffer) {
      const float (&examples)[3][kTile] = shared.examples[buffer];
      Tile::for_pairs([&](int p) {
        const int x = Tile::first_column() + p * 8;
        if (first + x >= width) return;
        const float2 mass = load_pair(examples[0] + x), known = load_pair(examples[1] + x);
        const float2 sum = load_pair(examples[2] + x);
        Tile::for_rows([&](int q) {
          const float2 w = load_pair(own + q * 8 * width + first + x), l = logits.pair(q, p);
          share[q] += w.x * mass.x + w.y * mass.y;
          score_sum[q] += w.x * sum.x + w.y * sum.y;
          if constexpr (!by_class) {
            loss[q] += w.x * known.x * (lse[q] - l.x * scale[q]);
            loss[q] += w.y * known.y * (lse[q] - l.y * scale[q]);
          }
        });
      });
    };
    const int chunks = (width + kTile - 1) / kTile, depths = (width + S::kDepth - 1) / S::kDepth;
    if constexpr (by_class) {
      for (int chunk = 0; chunk < chunks; ++chunk) {
        load_examples(chunk * kTile, chunk & 1);
        __syncthreads();
        add_examples(chunk * kTile, chunk & 1);
      }
    } else {
      int load_example = 0, load_depth = 0, load_chunk = 0, example = 0, depth = 0, chunk = 0;
      run_stages(
          chunks * depths,
          [&](int, int buffer) {
            T* stage = stages + buffer * 2 * S::kAlongSize;
            copy_rows<kTile, S::kDepth, kThreads>(stage, S::kAlong, weights, row, load_depth);
            copy_label_rows<kTile, S::kDepth, kThreads>(stage + S::kAlongSize, S::kAlong, scores, job.labels,
                                                        load_example, load_depth);
            if (load_depth == 0) load_examples(load_example, load_chunk & 1);
            load_depth += S::kDepth;
            if (load_depth >= width) load_depth = 0, load_example += kTile, ++load_chunk;
          },
          [&](int, int buffer) {
            const T* stage = stages + buffer * 2 * S::kAlongSize;
            logits.template multiply<false, false>(stage, S::kAlong, stage + S::kAlongSize, S::kAlong,
                                                   min(S::kDepth, width - depth));
            depth += S::kDepth;
            if (depth < width) return;
            add_examples(example, chunk & 1);
            depth = 0, example += kTile, ++chunk;
            logits.clear();
          });
    }
    Tile::for_rows([&](int q) {
      loss[q] = quad_sum(loss[q]), share[q] = quad_sum(share[q]), score_sum[q] = quad_sum(score_sum[q]);
      if (lane_column() == 0) {
        float (&sums)[3][kRows] = shared.sums[Tile::side()];
        const int i = Tile::first_row() + q * 8;
        sums[0][i] = loss[q], sums[1][i] = share[q], sums[2][i] = score_sum[q];
      }
    });
    __syncthreads();

    if (threadIdx.x < kRows) {
      const int i = threadIdx.x;
      const bool real = row + i < job.block.rows;
      const int64_t at = (place + int64_t(job.block.first_location)) * job.n + job.block.first + row + i;
      const float inverse = job.block.inverse[base + i], lse = shared.lse[i];
      float share = (shared.sums[0][1][i] + shared.sums[1][1][i]) * inverse;
      if (share > kMostShare) share = NAN;  // scores that are not numbers
      const float score_sum = (shared.sums[0][2][i] + shared.sums[1][2][i]) * inverse;
      if (!by_class) on_target = shared.sums[0][0][i] + shared.sums[1][0][i];
      float total = job.keep * kLn2 * (on_target * inverse) + share * 0;  // a label that does not exist has a NaN mass
      if (job.uniform != 0) {
        const float spread = job.labels.labels != nullptr ? share : inverse == 0 ? 0.0f : 1.0f;
        total += job.uniform * spread * (float(job.c) * (lse * kLn2) - score_sum);
      }
      if (lse < kLeastLogit && share > 0) total = INFINITY;  // every class is masked
      if (job.c == 1) total = share * 0;
      if (!real) total = 0;
      if (real && job.rows != nullptr) job.rows[at] = total;
      const float factor = !real ? 0.0f : job.grad_rows != nullptr ? job.grad_rows[at] : 1.0f;
      job.state[base + i] = {inverse * kLogitUnit<operand>, lse, factor * inverse * share, factor * inverse * inverse};
      total = warp_sum(total);
      if (lane == 0) shared.warps[threadIdx.x / kWarp] = total;
    }
    __syncthreads();
    if (threadIdx.x == 0 && job.sums != nullptr) {
      float sum = 0;
      for (int w = 0; w < kRows / kWarp; ++w) sum += shared.warps[w];
      add_to_slot(job.sums + base / kRows, sum, job.block.first_location == 0 && job.block.first == 0);
    }
  }
};

}  // namespace multimix
