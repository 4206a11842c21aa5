// The gradient of scores of up to 128 examples: partial sums of M^T (T softmax), and of M^T M for the targets' half.
//
// Everything is transposed, classes by rows, so that the softmax goes from registers into the second product. A block
// owns some classes of a location and every `splits`-th tile of rows; a warp owns 32 classes (16 in float32), whose
// scores stay in registers (in float32 in shared memory) and whose sums by examples are accumulators. Below the classes
// lie rows of the identity: their `logits` are the weights themselves, and what is added is M^T M.
//
// Cost per row: 2 products of 2 (b + c) b operations; bytes: weights from the L2 cache once per block of classes. A
// 16-bit warp reads 128 bytes of shared memory per 16x8x16 product. Lane-instructions on sm_80, 16-bit: 170 for 16 rows
// by 32 classes, of them 64 matrix instructions and 16 loads of operands; the others are 5.6 per logit.
#include "cuda/host/dispatch.h"
#include "cuda/mixed/large.h"

namespace multimix {
namespace {

template <Operand operand, int kWide>
struct GradientShape {
  using T = Element<operand>;
  static constexpr bool kInRegisters = sizeof(T) == 2;  // scores
  static constexpr int kFragments = kInRegisters ? 2 : 1;
  static constexpr int kWarps = 4, kThreads = kWarps * kWarp;
  static constexpr int kClasses = kWarps * kFragments * 16;
  static constexpr int kRows = kInRegisters ? 64 : 32;
  static constexpr int kPitch = kWide + Product<operand>::kPad, kScorePitch = kWide + 8;
  static constexpr int kScoreSize = kInRegisters ? 0 : kClasses * kScorePitch;
  static constexpr size_t kShared = (2 * kRows * kPitch + kScoreSize) * sizeof(T) + 2 * kRows * sizeof(RowState);
  static_assert(!kInRegisters || kClasses * kScorePitch <= 2 * kRows * kPitch,
                "scores pass through the weights' buffers");
};

template <Operand operand, int kWide>
__global__ void __launch_bounds__(GradientShape<operand, kWide>::kThreads, 2)
    gradient_kernel(LargeJob job, float* partial, int splits, int height, bool first) {
  using T = Element<operand>;
  using P = Product<operand>;
  using Shape = GradientShape<operand, kWide>;
  constexpr int kFragments = Shape::kFragments, kThreads = Shape::kThreads, kRows = Shape::kRows;
  constexpr int kPitch = Shape::kPitch, kScorePitch = Shape::kScorePitch, kDepths = kWide / 16;
  const int place = int(blockIdx.y) / splits, split = int(blockIdx.y) % splits, width = job.block.width;
  const int warp_class = int(threadIdx.x) / kWarp * kFragments * 16;  // in the block's classes
  const int warp_first = int(blockIdx.x) * Shape::kClasses + warp_class;
  T* buffers = reinterpret_cast<T*>(shared_memory());
  T* score_tile = buffers + (Shape::kInRegisters ? 0 : 2 * kRows * kPitch);
  RowState* states = reinterpret_cast<RowState*>(buffers + 2 * kRows * kPitch + Shape::kScoreSize);
  const Matrix<T> weights = job.weights<T>(place);
  const RowState* state = job.state + int64_t(place) * job.block.stored;

  copy_rows<Shape::kClasses, kWide, kThreads>(score_tile, kScorePitch, job.score_rows<T>(place),
                                              int(blockIdx.x) * Shape::kClasses, 0, SameRow{});
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  typename P::A scores[Shape::kInRegisters ? kFragments : 1][Shape::kInRegisters ? kDepths : 1];
  if constexpr (Shape::kInRegisters) {
#pragma unroll
    for (int m = 0; m < kFragments; ++m)
#pragma unroll
      for (int d = 0; d < kDepths; ++d)
        P::load_a(scores[m][d], score_tile + (warp_class + m * 16) * kScorePitch + d * 16, kScorePitch);
    __syncthreads();
  }

  float total[kFragments][kDepths * 2][4];
  float* own = partial + (int64_t(blockIdx.y) * height + warp_first + lane_row()) * width + lane_column();
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int n = 0; n < kDepths * 2; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float2 before = make_float2(0, 0);
        if (!first && n * 8 < width)
          before = *reinterpret_cast<const float2*>(own + (m * 16 + half * 8) * width + n * 8);
        total[m][n][half * 2] = before.x, total[m][n][half * 2 + 1] = before.y;
      }

  const int tiles = (job.block.rows + kRows - 1) / kRows;
  run_stages((tiles - split + splits - 1) / splits,
             [&](int s, int buffer) {
               const int row = (split + s * splits) * kRows;
               copy_rows<kRows, kWide, kThreads>(buffers + buffer * kRows * kPitch, kPitch, weights, row, 0, SameRow{});
               if (threadIdx.x < kRows) copy_async(states + buffer * kRows + threadIdx.x, state + row + threadIdx.x);
             },
             [&](int, int buffer) {
               const T* tile = buffers + buffer * kRows * kPitch;
               const RowState* rows = states + buffer * kRows + lane_column();
#pragma unroll 1
               for (int row = 0; row < kRows; row += 16, tile += 16 * kPitch, rows += 16) {
                 float logits[kFragments][2][4] = {};
#pragma unroll
                 for (int d = 0; d < kDepths; ++d) {
                   typename P::B right[2];
                   P::load_b(right, tile + d * 16, kPitch);
                   if constexpr (Shape::kInRegisters) {
#pragma unroll
                     for (int m = 0; m < kFragments; ++m)
                       P::add(logits[m][0], scores[m][d], right[0]), P::add(logits[m][1], scores[m][d], right[1]);
                   } else {
                     typename P::A left;
                     P::load_a(left, score_tile + warp_class * kScorePitch + d * 16, kScorePitch);
                     P::add(logits[0][0], left, right[0]), P::add(logits[0][1], left, right[1]);
                   }
                 }
#pragma unroll
                 for (int n = 0; n < 2; ++n)
#pragma unroll
                   for (int e = 0; e < 2; ++e) {
                     const RowState k = rows[n * 8 + e];
#pragma unroll
                     for (int m = 0; m < kFragments; ++m)
#pragma unroll
                       for (int half = 0; half < 2; ++half) {
                         float& x = logits[m][n][half * 2 + e];
                         const float p = fast_exp2(x * k.scale - k.lse) * k.probability;
                         x = warp_first + m * 16 >= job.gram ? x * k.target
                             // Rows of zeros have no logits where scores are infinite.
                             : operand == Operand::kF16 && k.scale == 0 ? 0.0f
                                                                        : p;
                       }
                   }
                 typename P::A left[kFragments];
#pragma unroll
                 for (int m = 0; m < kFragments; ++m) P::from_accumulators(left[m], logits[m][0], logits[m][1]);
#pragma unroll
                 for (int d = 0; d < kDepths; ++d) {
                   typename P::B right[2];
                   P::load_b_transposed(right, tile + d * 16, kPitch);
#pragma unroll
                   for (int m = 0; m < kFragments; ++m)
                     P::add(total[m][2 * d], left[m], right[0]), P::add(total[m][2 * d + 1], left[m], right[1]);
                 }
               }
             });
#pragma unroll
  for (int m = 0; m < kFragments; ++m)
#pragma unroll
    for (int n = 0; n < kDepths * 2; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        if (n * 8 < width)
          *reinterpret_cast<float2*>(own + (m * 16 + half * 8) * width + n * 8) =
              make_float2(total[m][n][half * 2], total[m][n][half * 2 + 1]);
}

template <class Work>
void with_shape(Operand operand, int b, Work work) {
  with_operand(operand, [&](auto constant) {
    constexpr Operand o = decltype(constant)::value;
    if (b <= 64)
      work(constant, std::integral_constant<int, 64>{}, GradientShape<o, 64>{});
    else
      work(constant, std::integral_constant<int, kFusedExamples>{}, GradientShape<o, kFusedExamples>{});
  });
}

}  // namespace

int gradient_height(Operand operand, int rows) {
  return round_up(rows, operand == Operand::kBF16 || operand == Operand::kF16 ? 128 : 64);
}

int gradient_splits(const Context& context, Operand operand, const LargeJob& job, int height, int64_t most) {
  int splits = 1;
  with_shape(operand, job.b, [&](auto, auto, auto shape) {
    using Shape = decltype(shape);
    const int64_t per_processor = std::max<int64_t>(1, int64_t(context.shared_limit / (Shape::kShared + 1024)));
    const int64_t blocks = int64_t(context.processors) * std::min<int64_t>(2, per_processor);
    const int64_t chunks = int64_t(job.block.places) * (height / Shape::kClasses);
    splits = int(std::max<int64_t>(1, std::min({blocks / chunks, most, ceil_div(job.block.rows, Shape::kRows)})));
  });
  return splits;
}

void gradient(const Context& context, Operand operand, const LargeJob& job, float* partial, int splits, int height,
              bool first) {
  with_shape(operand, job.b, [&](auto constant, auto wide, auto shape) {
    using Shape = decltype(shape);
    launch(context, "gradient", gradient_kernel<decltype(constant)::value, decltype(wide)::value>,
           Grid{height / Shape::kClasses, job.block.places * splits}, Shape::kThreads, Shape::kShared, job, partial,
           splits, height, first);
  });
}

}  // namespace multimix
