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
  RowSource grad;                           // (r, n, d)
  OperandMatrix<Element<operand>> weights;  // (places, stored, width)
  const float* inverse;                     // (places, stored)
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
  using A = Accumulators<operand>;
  constexpr BlockShape kShape = BlockTile<operand>::kShape;
  constexpr int kGradPitch = kShape.rows + BlockTile<operand>::kTransposedPad;
  constexpr int kWeightsPitch = kShape.columns + BlockTile<operand>::kTransposedPad;
  constexpr int kGradSize = kShape.depth * kGradPitch, kWeightsSize = kShape.depth * kWeightsPitch;
  T* grad_tiles = reinterpret_cast<T*>(shared_memory());
  T* weights_tiles = grad_tiles + 2 * kGradSize;
  const int place = blockIdx.x % job.places, split = blockIdx.x / job.places;
  const int first_feature = blockIdx.y * kShape.rows, first_example = blockIdx.z * kShape.columns;
  const OperandMatrix<T> weights = job.weights.at(place);
  const float* inverse = job.inverse + int64_t(place) * weights.rows;
  const int all = (job.rows + kShape.depth - 1) / kShape.depth;
  const int step0 = int(int64_t(all) * split / job.splits), steps = int(int64_t(all) * (split + 1) / job.splits);
  RowsLoader<operand, kShape.depth, kShape.rows> loader;

  const auto fetch = [&](int step) {
    copy_tile<kShape.depth, kShape.columns>(weights_tiles + step % 2 * kWeightsSize, kWeightsPitch, weights,
                                            step * kShape.depth, first_example);
    commit_copies();
    loader.load(job.grad, job.first_location + place, job.first, step * kShape.depth, job.rows, first_feature, inverse,
                nullptr);
  };
  A sum;
  sum.clear();
  if (step0 < steps) {
    fetch(step0);
    loader.store(grad_tiles + step0 % 2 * kGradSize, kGradPitch);
  }
  for (int step = step0; step < steps; ++step) {
    wait_copies<0>();
    __syncthreads();
    if (step + 1 < steps) fetch(step + 1);
    sum.template add<true, true>(grad_tiles + step % 2 * kGradSize, kGradPitch, weights_tiles + step % 2 * kWeightsSize,
                                 kWeightsPitch);
    if (step + 1 < steps) loader.store(grad_tiles + (step + 1) % 2 * kGradSize, kGradPitch);
  }
  const int d = job.grad.columns;
#pragma unroll
  for (int m = 0; m < A::kM; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int f = first_feature + A::row(m, half);
#pragma unroll
      for (int n = 0; n < A::kN; ++n) {
        const int i = first_example + A::column(n);
        const float one = sum.d[m][n][2 * half], other = sum.d[m][n][2 * half + 1];
        if (job.partial) {
          if (i >= weights.columns) continue;
          float2* to = reinterpret_cast<float2*>(
              job.partial + ((int64_t(place) * job.splits + split) * job.height + f) * weights.columns + i);
          const float2 before = job.add ? *to : float2{0, 0};
          *to = {before.x + one, before.y + other};
        } else if (f < d) {
          float* to = job.out + (int64_t(place) * job.b + i) * d + f;
          if (i < job.b) to[0] = job.add ? to[0] + one : one;
          if (i + 1 < job.b) to[d] = job.add ? to[d] + other : other;
        }
      }
    }
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
                          (kShape.rows + kShape.columns + 2 * BlockTile<operand>::kTransposedPad);
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
    OperandMatrix<Element<operand>> values;
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
