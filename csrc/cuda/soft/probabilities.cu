// Losses and gradients against mixed probabilities, from the records of the rows; logits are read a second time.
#include "cuda/device/team.h"
#include "cuda/host/dispatch.h"
#include "cuda/products/columns.h"
#include "cuda/products/rows.h"
#include "cuda/soft/soft.h"

namespace multimix {
namespace {

constexpr int kThreads = 256;

// Parts of row losses: each range of column tiles has two, those of the warps on either side.
struct LossParts {
  float* values;  // (groups, 2, places, stored)
  int64_t size;   // places * stored
};

// What to do with a tile of mixed targets: the gradient T softmax - mixed, the loss mixed (lse - l).
//
// Cost per element: the logit read, the gradient written (16 bytes at a time if rows are aligned), one exponential.
template <Operand operand>
struct AgainstMixed {
  using T = Element<operand>;
  using Sums = typename BlockTile<operand>::Sums;
  static constexpr BlockShape kShape = block_shape(operand);
  SoftBlock block;
  const RowRecord* records;  // (places, stored)
  LossParts parts;
  bool read_aligned, write_aligned;
  static constexpr int kOwn = Sums::kRows;  // row losses so far: registers are scarce
  static constexpr bool kCareful = false;

  MULTIMIX_DEVICE void begin(float* losses) const {
    Sums::for_rows([&](int q) { losses[q * kBlockThreads] = 0; });
  }

  MULTIMIX_DEVICE void tile(float* losses, const Sums& sum, int place, int row_tile, int column_tile) const {
    const int left = column_tile * kShape.columns + Sums::warp_column() + four_column();
    const float scale = block.scaled();
    Sums::for_rows([&](int q) {
      const int row = row_tile * kShape.rows + Sums::first_row() + q * 8;
      const bool real = row < block.rows;
      const int64_t stored = int64_t(place) * block.stored + row, index = block.index(place, row);
      RowRecord record{};
      if (real) record = records[stored];
      const float inverse = block.inverse[stored];
      const float keep = inverse * block.keep, uniform = inverse == 0 ? 0.0f : block.uniform;
      const float factor = real ? block.factor(index) * scale : 0.0f;
      const int64_t at =
          (block.first_location + place) * block.logits.strides[0] + (block.first + row) * block.logits.strides[1];
      const T* logits = static_cast<const T*>(block.logits.data) + at;
      float loss = 0;
      float* gradient = block.gradient ? block.gradient + index * block.c : nullptr;
      Sums::template for_pairs<2>([&](int p) {
        const float4 four = gather_four(sum.pair(q, p), sum.pair(q, p + 1));
        const int j = left + p * 8;
        if (!real || j >= block.c) return;
        const float mixed[4] = {four.x, four.y, four.z, four.w};
        float x[4], out[4];
        read(logits, j, x);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float y = mixed[e] * keep + uniform;
          const float distance = (record.top - x[e]) + record.log_z;
          if (y != 0 && j + e < block.c) loss += y * distance;
          out[e] = block.c == 1 ? 0.0f : (fast_exp2(-distance * kLog2E) * record.share - y) * factor;
        }
        if (!gradient) return;
        if (write_aligned) {
          *reinterpret_cast<float4*>(gradient + j) = {out[0], out[1], out[2], out[3]};
        } else {
#pragma unroll
          for (int e = 0; e < 4; ++e)
            if (j + e < block.c) gradient[j + e] = out[e];
        }
      });
      losses[q * kBlockThreads] += loss;
    });
  }

  MULTIMIX_DEVICE void end(const float* losses, int place, int row_tile, int group) const {
    float* to = parts.values + (group * 2 + Sums::side()) * parts.size + int64_t(place) * block.stored +
                row_tile * kShape.rows + Sums::first_row();
    Sums::for_rows([&](int q) {
      const float sum = quad_sum(losses[q * kBlockThreads]);
      if (threadIdx.x % 4 == 0) to[q * 8] = sum;
    });
  }

  MULTIMIX_DEVICE void read(const T* row, int j, float (&x)[4]) const {
    if (read_aligned) {
      if constexpr (sizeof(T) == 2) {
        const uint2 bits = *reinterpret_cast<const uint2*>(row + j);
        x[0] = to_float(T{uint16_t(bits.x)}), x[1] = to_float(T{uint16_t(bits.x >> 16)});
        x[2] = to_float(T{uint16_t(bits.y)}), x[3] = to_float(T{uint16_t(bits.y >> 16)});
      } else {
        const float4 four = *reinterpret_cast<const float4*>(row + j);
        x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
      }
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) x[e] = j + e < block.c ? to_float(row[(j + e) * block.logits.strides[2]]) : 0.0f;
    }
  }
};

// Adds up the parts of row losses; 8 bytes per part and row.
__global__ void row_losses_kernel(SoftBlock block, const RowRecord* records, LossParts parts, int part_count,
                                  double* sums) {
  float* warps = reinterpret_cast<float*>(shared_memory());
  float total = 0;
  for (int task = blockIdx.x * kThreads + threadIdx.x; task < block.places * block.rows; task += gridDim.x * kThreads) {
    const int place = task / block.rows, row = task % block.rows;
    const int64_t stored = int64_t(place) * block.stored + row;
    float loss = 0;
    for (int part = 0; part < part_count; ++part) loss += parts.values[part * parts.size + stored];
    loss = block.c == 1 ? 0.0f : loss;
    loss += records[stored].share * 0.0f;  // NaN stays
    if (block.losses) block.losses[block.index(place, row)] = loss;
    total += loss;
  }
  total = warp_sum(total);
  if (threadIdx.x % kWarp == 0) warps[threadIdx.x / kWarp] = total;
  __syncthreads();
  if (sums && threadIdx.x == 0) {
    for (int warp = 1; warp < kThreads / kWarp; ++warp) total += warps[warp];
    add_to_slot(sums + blockIdx.x, total, block.is_first());
  }
}

// What a row's logits are taken relative to, and its lse relative to that. In float32 it is the lse: nothing cancels.
// Targets that lose digits as operands lose the least times differences from the mean logit.
template <Operand operand>
struct Origin {
  float at, lse;
  MULTIMIX_DEVICE Origin(const RowRecord& record, int c) {
    const bool exact = operand == Operand::kFP32;
    at = exact ? record.top + record.log_z : record.top - record.below / c;
    lse = exact ? 0.0f : record.below / c + record.log_z;
  }
};

// What `row_products` calls for d loss / d mu = sum_j Y_ij (lse - l_j). Float32 logits come less their origin, 16-bit
// ones as they are: exact.
template <Operand operand>
struct WeightsGradient {
  static constexpr bool kShifted = sizeof(Element<operand>) == 4;
  static constexpr bool kFinite = true;  // a masked class has no target
  SoftBlock block;
  const RowRecord* records;
  SoftTargets targets;

  struct Row {
    float origin, lse, spread, factor;
  };
  MULTIMIX_DEVICE Row row(int64_t stored, bool real, int location, int64_t k) const {
    if (!real) return {0, 0, 0, 0};
    const RowRecord record = records[stored];
    const Origin<operand> origin(record, block.c);
    const float spread = block.uniform != 0 ? block.uniform * (record.below + block.c * record.log_z) : 0.0f;
    return {kShifted ? 0.0f : origin.at, origin.lse, spread, block.factor(location * block.n + k)};
  }
  MULTIMIX_DEVICE float operator()(const Row& row, int i, float sum) const {
    if (i >= block.b || block.c == 1 || row.factor == 0) return 0;
    if (!kShifted) sum -= row.origin * targets.rounded_sums[i];
    const float distance = operand == Operand::kFP32 ? -sum : row.lse * targets.sums[i] - sum;
    return (block.keep * distance + row.spread) * row.factor;
  }
};

template <Operand operand>
__global__ void origins_kernel(const RowRecord* records, int rows, int stored, int c, int64_t count, float* origins) {
  for (int64_t at = int64_t(blockIdx.x) * kThreads + threadIdx.x; at < count; at += int64_t(gridDim.x) * kThreads)
    origins[at] = at % stored < rows ? Origin<operand>(records[at], c).at : 0.0f;
}

template <Operand operand>
void run(const Context& context, const SoftBlock& block, const Block& weights, const SoftTargets& targets,
         const RowRecord* records, LossSlots& slots) {
  using T = Element<operand>;
  const Matrix<T> y{static_cast<const T*>(targets.data), 0, targets.pitch, block.b, block.c, targets.skip};
  const int64_t size = int64_t(block.places) * block.stored, processors = context.processors;
  const int groups = column_groups<operand>(context, weights, block.c);
  const LossParts parts{context.make<float>(2 * groups * size), size};
  const int64_t* strides = block.logits.strides;
  const bool read_aligned = strides[2] == 1 && strides[1] % 4 == 0 && strides[0] % 4 == 0 && block.c % 4 == 0 &&
                            reinterpret_cast<uintptr_t>(block.logits.data) % (4 * sizeof(T)) == 0;
  const AgainstMixed<operand> against{block, records, parts, read_aligned, block.c % 4 == 0};
  mix_columns<operand>(context, "soft_probabilities", weights, y, groups, against);
  if (block.losses || slots.wanted()) {
    const int64_t grid = std::min(ceil_div(int64_t(block.places) * block.rows, kThreads), 4 * processors);
    double* sums = slots.at(grid);
    launch(context, "row_losses", row_losses_kernel, {grid}, kThreads, kThreads / kWarp * sizeof(float), block, records,
           parts, 2 * groups, sums);
  }
  if (!block.weights_gradient) return;
  float* origins = nullptr;
  if constexpr (WeightsGradient<operand>::kShifted) {
    origins = context.make<float>(size);
    launch(context, "soft_origins", origins_kernel<operand>, {std::min(ceil_div(size, kThreads), 8 * processors)},
           kThreads, 0, records, block.rows, block.stored, block.c, size, origins);
  }
  row_products<operand>(context, "soft_weights_gradient", weights, row_source(block.logits, block.c, operand), y,
                        origins, WeightsGradient<operand>{block, records, targets});
}

}  // namespace

SoftTargets soft_targets(const Context& context, const Target& target, const bool* bad, Operand operand, int b) {
  SoftTargets result{};
  with_operand(operand, [&](auto constant) {
    const auto y = operand_matrix<decltype(constant)::value>(context, target.probabilities, 0, 1, b, target.c, nullptr);
    result.data = y.data, result.pitch = y.pitch;
  });
  const Strided rounded{result.data, dtype_of(operand), {0, result.pitch, 1}};
  result.sums = row_sums(context, target.probabilities, 0, 1, b, target.c);
  result.rounded_sums = row_sums(context, rounded, 0, 1, b, target.c);
  result.skip = bad;
  return result;
}

void soft_probabilities(const Context& context, const SoftBlock& block, Operand operand, const Block& weights,
                        const SoftTargets& targets, const RowRecord* records, LossSlots& slots) {
  with_operand(operand, [&](auto constant) {
    run<decltype(constant)::value>(context, block, weights, targets, records, slots);
  });
}

}  // namespace multimix
