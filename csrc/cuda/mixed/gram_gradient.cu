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
  static constexpr int kRows = kInRegisters ? 64 : 32, kDepths = kWide / 16;
  static constexpr int kPitch = kWide + Product<operand>::kPad, kScorePitch = kWide + 8;
  static constexpr int kScoreSize = kInRegisters ? 0 : kClasses * kScorePitch;
  static constexpr size_t kShared = (2 * kRows * kPitch + kScoreSize) * sizeof(T) + 2 * kRows * sizeof(RowState);
  static_assert(!kInRegisters || kClasses * kScorePitch <= 2 * kRows * kPitch,
                "scores pass through the weights' buffers");
};

// Of one warp and a tile of 16 rows, logits and what they become: (kFragments x 16 classes, 16 rows).
template <Operand operand, int kWide>
struct WarpLogits {
  using P = Product<operand>;
  static constexpr int kFragments = GradientShape<operand, kWide>::kFragments;
  float at[kFragments][2][4];

  // softmax times its factor; the rows of the identity (from fragment to fragment all or none) only theirs. `states`
  // are those of this lane's first row on.
  MULTIMIX_DEVICE void softmax_or_identity(const RowState* states, int before_identity) {
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const RowState k = states[n * 8 + e];
#pragma unroll
        for (int m = 0; m < kFragments; ++m) {
          const bool identity = m * 16 >= before_identity;
          one(at[m][n][e], k, identity), one(at[m][n][2 + e], k, identity);
        }
      }
  }

  static MULTIMIX_DEVICE void one(float& x, const RowState& k, bool identity) {
    const float p = fast_exp2(x * k.scale - k.lse) * k.probability;
    x = identity ? x * k.target : p;
  }
};

// The scores of a warp's classes (kFragments x 16 classes, kWide examples): in 16 bits in registers for the whole
// launch, otherwise in shared memory.
template <Operand operand, int kWide>
struct WarpScores {
  using P = Product<operand>;
  using Shape = GradientShape<operand, kWide>;
  const Element<operand>* tile;  // of this warp
  typename P::A at[Shape::kInRegisters ? Shape::kFragments : 1][Shape::kInRegisters ? Shape::kDepths : 1];

  MULTIMIX_DEVICE void load_scores(const Element<operand>* from) {
    tile = from;
    if constexpr (Shape::kInRegisters) {
#pragma unroll
      for (int m = 0; m < Shape::kFragments; ++m)
#pragma unroll
        for (int d = 0; d < Shape::kDepths; ++d)
          P::load_a(at[m][d], tile + m * 16 * Shape::kScorePitch + d * 16, Shape::kScorePitch);
      __syncthreads();
    }
  }

  // logits = scores weights^T, of 16 rows
  MULTIMIX_DEVICE void mix(WarpLogits<operand, kWide>& logits, const Element<operand>* weights) const {
#pragma unroll
    for (int m = 0; m < Shape::kFragments; ++m)
#pragma unroll
      for (int x = 0; x < 8; ++x) logits.at[m][x / 4][x % 4] = 0;
#pragma unroll
    for (int d = 0; d < Shape::kDepths; ++d) {
      typename P::B right[2];
      P::load_b(right, weights + d * 16, Shape::kPitch);
      if constexpr (Shape::kInRegisters) {
#pragma unroll
        for (int m = 0; m < Shape::kFragments; ++m)
          P::add(logits.at[m][0], at[m][d], right[0]), P::add(logits.at[m][1], at[m][d], right[1]);
      } else {
        typename P::A left;
        P::load_a(left, tile + d * 16, Shape::kScorePitch);
        P::add(logits.at[0][0], left, right[0]), P::add(logits.at[0][1], left, right[1]);
      }
    }
  }
};

// A warp's part of a partial sum (kFragments x 16 classes, kWide examples), from tile to tile in registers.
template <Operand operand, int kWide>
struct WarpSums {
  using P = Product<operand>;
  using Shape = GradientShape<operand, kWide>;
  float at[Shape::kFragments][Shape::kDepths * 2][4];

  // += d weights, of 16 rows
  MULTIMIX_DEVICE void add_product(const WarpLogits<operand, kWide>& d, const Element<operand>* weights) {
    typename P::A left[Shape::kFragments];
#pragma unroll
    for (int m = 0; m < Shape::kFragments; ++m) P::from_accumulators(left[m], d.at[m][0], d.at[m][1]);
#pragma unroll
    for (int i = 0; i < Shape::kDepths; ++i) {
      typename P::B right[2];
      P::load_b_transposed(right, weights + i * 16, Shape::kPitch);
#pragma unroll
      for (int m = 0; m < Shape::kFragments; ++m)
        P::add(at[m][2 * i], left[m], right[0]), P::add(at[m][2 * i + 1], left[m], right[1]);
    }
  }

  MULTIMIX_DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < Shape::kFragments; ++m)
#pragma unroll
      for (int x = 0; x < Shape::kDepths * 8; ++x) at[m][x / 4][x % 4] = 0;
  }

  // Writes the sums to this lane's part of the partial sum, or adds them to it: rounded to nearest, where tensor cores
  // would truncate one long chain.
  MULTIMIX_DEVICE void store(float* own, int width, bool first) const {
#pragma unroll
    for (int m = 0; m < Shape::kFragments; ++m)
#pragma unroll
      for (int n = 0; n < Shape::kDepths * 2; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          if (n * 8 >= width) continue;
          float2& to = *reinterpret_cast<float2*>(own + (m * 16 + half * 8) * width + n * 8);
          const float2 before = first ? make_float2(0, 0) : to;
          to = make_float2(before.x + at[m][n][half * 2], before.y + at[m][n][half * 2 + 1]);
        }
  }
};

template <Operand operand, int kWide>
__global__ void __launch_bounds__(GradientShape<operand, kWide>::kThreads, 2)
    gradient_kernel(LargeJob job, float* partial, int splits, int height, bool first) {
  using T = Element<operand>;
  using Shape = GradientShape<operand, kWide>;
  constexpr int kThreads = Shape::kThreads, kRows = Shape::kRows, kPitch = Shape::kPitch;
  const int place = int(blockIdx.y) / splits, split = int(blockIdx.y) % splits, width = job.block.width;
  const int first_class = int(blockIdx.x) * Shape::kClasses;
  const int warp_class = int(threadIdx.x) / kWarp * Shape::kFragments * 16;  // in the block's classes
  T* buffers = reinterpret_cast<T*>(shared_memory());                        // (2, kRows, kPitch) weights
  T* score_tile = buffers + (Shape::kInRegisters ? 0 : 2 * kRows * kPitch);  // (kClasses, kScorePitch)
  RowState* states = reinterpret_cast<RowState*>(buffers + 2 * kRows * kPitch + Shape::kScoreSize);  // (2, kRows)

  copy_rows<Shape::kClasses, kWide, kThreads>(score_tile, Shape::kScorePitch, job.score_rows<T>(place), first_class, 0);
  commit_copies();
  wait_copies<0>();
  __syncthreads();
  WarpScores<operand, kWide> scores;
  scores.load_scores(score_tile + warp_class * Shape::kScorePitch);
  WarpSums<operand, kWide> total;
  total.clear();

  const int beyond = job.gram - first_class - warp_class;  // classes from here on are rows of the identity
  const auto fetch = [&](int s, int buffer) {
    const int row = (split + s * splits) * kRows;
    copy_rows<kRows, kWide, kThreads>(buffers + buffer * kRows * kPitch, kPitch, job.weights<T>(place), row, 0);
    const RowState* from = job.state + int64_t(place) * job.block.stored + row;
    if (threadIdx.x < kRows) copy_async(states + buffer * kRows + threadIdx.x, from + threadIdx.x);
  };
  const auto add = [&](int, int buffer) {
    const T* tile = buffers + buffer * kRows * kPitch;
    const RowState* rows = states + buffer * kRows + lane_column();
#pragma unroll 1
    for (int row = 0; row < kRows; row += 16, tile += 16 * kPitch, rows += 16) {
      WarpLogits<operand, kWide> logits;
      scores.mix(logits, tile);
      logits.softmax_or_identity(rows, beyond);
      total.add_product(logits, tile);
    }
  };
  const int tiles = (job.block.rows + kRows - 1) / kRows;
  run_stages((tiles - split + splits - 1) / splits, fetch, add);
  float* own = partial + (int64_t(blockIdx.y) * height + first_class + warp_class + lane_row()) * width + lane_column();
  total.store(own, width, first);
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
