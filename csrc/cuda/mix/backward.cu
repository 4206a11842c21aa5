// Gradients of mixed embeddings by the values, M^T G, and by the attention, from G V^T.
#include "cuda/host/dispatch.h"
#include "cuda/host/memory.h"
#include "cuda/launchers.h"
#include "cuda/products/rows.h"
#include "cuda/sums/sums.h"

namespace multimix {
namespace {

template <Operand operand>
struct ValuesGradientJob {
  RowSource grad;                    // (r, n, d)
  Matrix<Element<operand>> weights;  // (places, stored, width)
  const float* inverse;              // (places, stored)
  int64_t first;
  int first_location, places, rows, splits, b;
  bool add;        // to what earlier blocks of rows gave
  float* partial;  // (places, splits, height, width), or null:
  int height;
  float* out;  // (places, b, d)
};

// partial += grad^T mu, features by examples, of a range of rows; with a single range, straight into the gradient.
//
// Cost: per row 2 b d operations; the gradient is read once for each 128 (64 in float32) examples, the weights once for
// each 128 (64) features from the L2 cache. Sums live in registers, and in memory from one block of rows to the next.
template <Operand operand>
__global__ void __launch_bounds__(kBlockThreads, 2) values_gradient_kernel(ValuesGradientJob<operand> job) {
  using T = Element<operand>;
  using Tile = BlockTile<operand>;
  using Sums = typename Tile::Sums;
  constexpr BlockShape kShape = Tile::kShape;
  constexpr int kGradSize = kShape.depth * Tile::kAcrossRows, kWeightsSize = kShape.depth * Tile::kAcrossColumns;
  T* grad_tiles = reinterpret_cast<T*>(shared_memory());  // (2, rows, features)
  T* weights_tiles = grad_tiles + 2 * kGradSize;          // (2, rows, examples)
  const int place = blockIdx.x % job.places, split = blockIdx.x / job.places;
  const int first_feature = blockIdx.y * kShape.rows, first_example = blockIdx.z * kShape.columns;
  const Matrix<T> weights = job.weights.at(place);
  const float* inverse = job.inverse + int64_t(place) * weights.rows;
  const int all = (job.rows + kShape.depth - 1) / kShape.depth;
  const int begin = int(int64_t(all) * split / job.splits), end = int(int64_t(all) * (split + 1) / job.splits);
  RowsLoader<operand, kShape.depth, kShape.rows> loader;

  Sums sum;  // features by examples
  sum.clear();
  const auto load = [&](int s, int buffer) {
    const int row = (begin + s) * kShape.depth;
    copy_rows<kShape.depth, kShape.columns, kBlockThreads>(weights_tiles + buffer * kWeightsSize, Tile::kAcrossColumns,
                                                           weights, row, first_example);
    loader.load(job.grad, job.first_location + place, job.first, row, job.rows, first_feature, inverse, nullptr);
    if (s == 0) loader.store(grad_tiles, Tile::kAcrossRows);
  };
  run_stages(end - begin, load, [&](int s, int buffer) {
    Tile::template multiply<true, true>(sum, grad_tiles + buffer * kGradSize, Tile::kAcrossRows,
                                        weights_tiles + buffer * kWeightsSize, Tile::kAcrossColumns);
    if (begin + s + 1 < end) loader.store(grad_tiles + (buffer ^ 1) * kGradSize, Tile::kAcrossRows);
  });
  const int d = job.grad.columns, width = weights.columns;
  const int feature = first_feature + Sums::first_row(), example = first_example + Sums::first_column();
  float* partial = job.partial + ((int64_t(place) * job.splits + split) * job.height + feature) * width + example;
  float* out = job.out + (int64_t(place) * job.b + example) * d + feature;
  Sums::for_rows([&](int q) {
    Sums::for_pairs([&](int p) {
      const float2 x = sum.pair(q, p);
      if (job.partial) {
        if (example + p * 8 >= width) return;
        float2* to = reinterpret_cast<float2*>(partial + int64_t(q * 8) * width + p * 8);
        const float2 before = job.add ? *to : float2{0, 0};
        *to = {before.x + x.x, before.y + x.y};
      } else if (feature + q * 8 < d) {
        float* to = out + int64_t(p * 8) * d + q * 8;
        if (example + p * 8 < job.b) to[0] = job.add ? to[0] + x.x : x.x;
        if (example + p * 8 + 1 < job.b) to[d] = job.add ? to[d] + x.y : x.y;
      }
    });
  });
}

// The gradient by the values: `splits` partial sums, as many as fill the machine and fit in the memory for them.
template <Operand operand>
class ValuesGradient {
 public:
  ValuesGradient(const Context& context, const MixJob& job)
      : context_(context), job_(job), chunks_(int(ceil_div(job.d, kShape.rows))), memory_(context) {}

  void add(const Block& block) {
    const int columns = int(ceil_div(block.width, kShape.columns)), height = chunks_ * kShape.rows;
    float* out = job_.grad_values + int64_t(block.first_location) * job_.draw.b * job_.d;
    if (block.first == 0) {
      const int64_t bytes = int64_t(block.places) * height * block.width * sizeof(float);
      const int64_t wanted = ceil_div(2 * context_.processors, int64_t(block.places) * chunks_ * columns);
      splits_ = int(std::min({wanted, kPartialBytes / bytes, int64_t(block.stored / kRowTile)}));
      splits_ = std::max(splits_, 1);
      memory_.restart();
      partial_ = splits_ > 1 ? memory_.context.make<float>(bytes * splits_ / sizeof(float)) : nullptr;
    }
    ValuesGradientJob<operand> job{};
    job.grad = row_source(job_.grad, job_.d, job_.operand);
    job.weights = weight_matrix<operand>(block), job.inverse = block.inverse;
    job.first = block.first, job.first_location = block.first_location;
    job.places = block.places, job.rows = block.rows, job.splits = splits_, job.b = job_.draw.b;
    job.add = block.first > 0;
    job.partial = partial_, job.height = height, job.out = out;
    const size_t shared = sizeof(Element<operand>) * 2 * kShape.depth *
                          (BlockTile<operand>::kAcrossRows + BlockTile<operand>::kAcrossColumns);
    launch(context_, "values_gradient", values_gradient_kernel<operand>,
           {int64_t(block.places) * splits_, chunks_, columns}, kBlockThreads, shared, job);
    if (!block.last || !partial_) return;
    const PartialSums sums{partial_, block.places, splits_, height, block.width};
    GradientOutput gradient{};
    gradient.at = out, gradient.b = job_.draw.b, gradient.c = job_.d;
    add_up(memory_.context, sums, gradient);
  }

 private:
  static constexpr BlockShape kShape = block_shape(operand);
  const Context& context_;
  const MixJob& job_;
  int chunks_, splits_ = 1;
  Recycled memory_;
  float* partial_ = nullptr;
};

struct AsIs {
  static constexpr bool kFinite = false;
  MULTIMIX_DEVICE int row(int64_t, bool, int, int64_t) const { return 0; }
  MULTIMIX_DEVICE float operator()(int, int, float sum) const { return sum; }
};

}  // namespace

void mix_backward(const Context& context, const MixJob& job) {
  with_operand(job.operand, [&](auto constant) {
    constexpr Operand operand = decltype(constant)::value;
    const bool attention = job.grad_attention != nullptr;
    Recycled of_locations(context), of_block(context);
    Matrix<Element<operand>> values;
    ValuesGradient<operand> values_gradient(context, job);
    const int64_t bytes = int64_t(job.draw.b) * job.d * sizeof(float);
    const int64_t most = std::max<int64_t>(1, kPartialBytes / bytes);
    for_each_block(context, job.draw, job.operand, attention, most, [&](const Block& block) {
      if (job.grad_values) values_gradient.add(block);
      if (!attention) return;
      if (block.first == 0) {
        of_locations.restart();
        values = operand_matrix<operand>(of_locations.context, job.values, block.first_location, block.places,
                                         job.draw.b, job.d, job.draw.ignored);
      }
      row_products<operand>(context, "weights_gradient", block, row_source(job.grad, job.d, job.operand), values,
                            nullptr, AsIs{});
      of_block.restart();
      centre(of_block.context, job.draw, block, block.first == 0, {},
             job.grad_attention + int64_t(block.first_location) * job.draw.b);
    });
  });
}

}  // namespace multimix
