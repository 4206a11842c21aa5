// What one block of the single-pass mixed cross-entropy does with a tile of weights: mixed scores and targets, the
// rows' losses, and delta (the gradient of their logits). See small.cu.
#pragma once

#include <cfloat>

#include "cuda/device/team.h"
#include "cuda/mixed/small_gradient.h"
#include "cuda/mixed/small_operands.h"
#include "cuda/sums/loss.h"

namespace multimix {

// A float sum that keeps what its roundings leave out.
struct Compensated {
  float sum = 0, rest = 0;

  MULTIMIX_DEVICE void add(float x) {
    const float y = x - rest, next = sum + y;
    rest = (next - sum) - y;
    sum = next;
  }
};

// What a row's losses and gradients need of all of its classes; `refine` says what it writes instead.
struct alignas(16) SmallState {
  float largest;  // logit, in units of ln 2
  float log_z;    // of the sum of exponentials relative to it, in the same units
  float share;    // of the softmax in the gradient: the targets' sum over z
  float others;
};

// One block's view of its shared memory and of its warps' parts.
template <Operand operand, Arithmetic arithmetic>
struct SmallBlock {
  using P = Product<operand>;
  using T = Element<operand>;
  static constexpr bool kTwoHalves = SmallGradient<operand, arithmetic>::kTwoHalves;
  static constexpr SmallLimits kLimits = small_limits(operand, arithmetic);
  static constexpr int kPairs = kLimits.pairs;
  static constexpr int kUnroll = sizeof(T) == 4 ? 1 : 2;  // as registers allow

  const SmallJob& job;
  T *scores, *targets, *tile, *delta, *rest;
  void* scratch;
  float *mass, *inverse, *share, *top, *sum, *loss;
  SmallState* state;
  int warp, strip, group, groups;  // of the mixed scores: 16 rows, every groups-th 16 classes
  int pairs;                       // 16 classes each
  bool mass_is_one;

  MULTIMIX_DEVICE explicit SmallBlock(const SmallJob& job) : job(job) {
    unsigned char* memory = shared_memory();
    const SmallLayout& l = job.plan.layout;
    scores = reinterpret_cast<T*>(memory + l.scores), targets = reinterpret_cast<T*>(memory + l.targets);
    tile = reinterpret_cast<T*>(memory + l.tiles), delta = reinterpret_cast<T*>(memory + l.delta);
    rest = delta + job.plan.rows * job.plan.class_pitch;
    scratch = memory + l.scratch, mass = reinterpret_cast<float*>(memory + l.mass);
    inverse = reinterpret_cast<float*>(memory + l.inverse), share = reinterpret_cast<float*>(memory + l.share);
    top = reinterpret_cast<float*>(memory + l.top), sum = reinterpret_cast<float*>(memory + l.sum);
    loss = reinterpret_cast<float*>(memory + l.loss), state = reinterpret_cast<SmallState*>(memory + l.state);
    const int strips = job.plan.rows / 16;
    warp = threadIdx.x / kWarp, strip = warp % strips, group = warp / strips, groups = job.plan.warps / strips;
    pairs = job.plan.classes / 16;
  }

  // The other of the two tiles of weights.
  MULTIMIX_DEVICE T* other(T* tile) const {
    T* first = reinterpret_cast<T*>(shared_memory() + job.plan.layout.tiles);
    return tile == first ? first + job.plan.rows * job.plan.pitch : first;
  }

  // The scores and targets of a location. Ends with a barrier.
  MULTIMIX_DEVICE void read(int location) {
    mass_is_one = SmallOperands<operand>{job, scores, targets, mass}.read(location);
  }

  // share[row] = sum_i mu_i mass_i
  MULTIMIX_DEVICE void weigh_masses() {
    if (mass_is_one) {
      for (int row = threadIdx.x; row < job.plan.rows; row += blockDim.x) share[row] = inverse[row] == 0 ? 0.0f : 1.0f;
      return;
    }
    for (int row = warp; row < job.plan.rows; row += job.plan.warps) {
      float total = 0;
      for (int i = threadIdx.x % kWarp; i < job.plan.width; i += kWarp)
        total += to_float(tile[row * job.plan.pitch + i]) * (mass[i] - 1);  // exactly one of masses that are one
      total = warp_sum(total);
      total = inverse[row] == 0 ? 0.0f : 1 + total * inverse[row];
      if (threadIdx.x % kWarp == 0) share[row] = total > kMostShare ? kNaN : total;  // scores that are not numbers
    }
  }

  MULTIMIX_DEVICE int row_of(int half) const { return strip * 16 + half * 8 + lane_row(); }

  // Mixed scores and targets of 16 rows and of the first `count` of this warp's 16 classes.
  template <int count>
  MULTIMIX_DEVICE void mix(float (&logits)[kPairs][2][4], float (&mixed)[kPairs][2][4]) const {
    const int pitch = job.plan.class_pitch;
    const T *weights = tile + strip * 16 * job.plan.pitch, *s = scores + group * 16, *y = targets + group * 16;
#pragma unroll kUnroll
    for (int k = 0; k < job.plan.width; k += 16, weights += 16, s += 16 * pitch, y += 16 * pitch) {
      typename P::A a;
      typename P::B b[2];
      P::load_a(a, weights, job.plan.pitch);
#pragma unroll
      for (int p = 0; p < count; ++p) {
        P::load_b_transposed(b, s + p * groups * 16, pitch);
        P::add(logits[p][0], a, b[0]), P::add(logits[p][1], a, b[1]);
        P::load_b_transposed(b, y + p * groups * 16, pitch);
        P::add(mixed[p][0], a, b[0]), P::add(mixed[p][1], a, b[1]);
      }
    }
  }

  // Everything between the weights and delta. Returns the row losses of this thread's part in units of ln 2.
  MULTIMIX_DEVICE float rows_of_warp(int64_t first, int location) {
    float logits[kPairs][2][4] = {}, mixed[kPairs][2][4] = {};
    if (group + (kPairs - 1) * groups < pairs)
      mix<kPairs>(logits, mixed);
    else if (group < pairs)
      mix<1>(logits, mixed);
    weigh_masses();
    const float unit[2] = {inverse[row_of(0)], inverse[row_of(1)]};
    mask(logits);
    normalise(logits, unit);
    __syncthreads();
    if (!combine()) return differentiate<false>(logits, mixed, unit, first, location);
    refine(logits, mixed, unit);
    return differentiate<true>(logits, mixed, unit, first, location);
  }

  // Classes that do not exist become minus infinity.
  MULTIMIX_DEVICE void mask(float (&logits)[kPairs][2][4]) const {
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      const int first_class = (group + p * groups) * 16;
      if (first_class + 16 <= job.target.c) continue;
#pragma unroll
      for (int n = 0; n < 2; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          if (first_class + n * 8 + lane_column() + e % 2 >= job.target.c) logits[p][n][e] = -kInfinity;
    }
  }

  // From sums of weights to logits in units of ln 2; not zero where there are no weights, as zero times infinity is
  // NaN.
  static MULTIMIX_DEVICE float scale_of(float unit) { return (unit == 0 ? 1.0f : unit) * kLogitUnit<operand>; }

  // The largest logit of each row among this warp's classes, and the sum of the exponentials relative to it.
  MULTIMIX_DEVICE void normalise(const float (&logits)[kPairs][2][4], const float (&unit)[2]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float scale = scale_of(unit[half]);
      float largest = -kInfinity, z = 0;
#pragma unroll
      for (int p = 0; p < kPairs; ++p)
#pragma unroll
        for (int n = 0; n < 2; ++n) largest = fmaxf(largest, fmaxf(logits[p][n][half * 2], logits[p][n][half * 2 + 1]));
      largest = fmaxf(quad_max(largest) * scale, -FLT_MAX);
#pragma unroll
      for (int p = 0; p < kPairs; ++p)
#pragma unroll
        for (int n = 0; n < 2; ++n)
          z += fast_exp2(logits[p][n][half * 2] * scale - largest) +
               fast_exp2(logits[p][n][half * 2 + 1] * scale - largest);
      z = quad_sum(z);
      const int at = group * job.plan.rows + row_of(half);
      if (threadIdx.x % 4 == 0) top[at] = largest, sum[at] = z;
    }
  }

  // The state of each row from the parts of its classes. Whether one class has nearly all of some row.
  MULTIMIX_DEVICE bool combine() {
    const int used = min(groups, pairs);
    bool confident = false;
    for (int at = threadIdx.x; at < job.plan.rows * 4; at += blockDim.x) {
      const int row = at / 4;
      float largest = -FLT_MAX, z = 0;
#pragma unroll 1
      for (int g = at % 4; g < used; g += 4) largest = fmaxf(largest, top[g * job.plan.rows + row]);
      largest = quad_max(largest);
#pragma unroll 1
      for (int g = at % 4; g < used; g += 4)
        z += sum[g * job.plan.rows + row] * fast_exp2(top[g * job.plan.rows + row] - largest);
      z = quad_sum(z);
      if (at % 4 == 0) state[row] = {largest, largest < kLeastLogit ? kInfinity : log2f(z), share[row] / z, 0.0f};
      // The last term: of a large logit the largest is not exactly the row's.
      confident = confident || (inverse[row] != 0 && z < 1 + 0x1p-6f + fabsf(largest) * 0x1p-23f);
    }
    return __syncthreads_or(confident);
  }

  // The same for such rows: largest is not yet scaled, so that the differences are exact; others is z - 1 and log_z
  // comes from that; share is the targets' sum, as the products have rounded them.
  MULTIMIX_DEVICE void refine(const float (&logits)[kPairs][2][4], const float (&mixed)[kPairs][2][4],
                              const float (&unit)[2]) {
    const int used = min(groups, pairs);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float largest = -kInfinity, total = 0;
#pragma unroll
      for (int p = 0; p < kPairs; ++p)
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          largest = fmaxf(largest, logits[p][x / 2][half * 2 + x % 2]);
          total += mixed[p][x / 2][half * 2 + x % 2];
        }
      largest = fmaxf(quad_max(largest), -FLT_MAX), total = quad_sum(total);
      const int at = group * job.plan.rows + row_of(half);
      if (threadIdx.x % 4 == 0) top[at] = largest, loss[at] = total;
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(half);
      const float scale = scale_of(unit[half]);
      float largest = -FLT_MAX, others = 0, ties = 0;
      int owner = 0;  // the first group with the largest
#pragma unroll 1
      for (int g = used - 1; g >= 0; --g)
        if (top[g * job.plan.rows + row] >= largest) largest = top[g * job.plan.rows + row], owner = g;
#pragma unroll
      for (int p = 0; p < kPairs; ++p)
#pragma unroll
        for (int x = 0; x < 4; ++x) {
          const float below = logits[p][x / 2][half * 2 + x % 2] - largest;
          ties += below == 0 ? 1.0f : 0.0f, others += below == 0 ? 0.0f : fast_exp2(below * scale);
        }
      others = quad_sum(others), ties = quad_sum(ties);
      if (threadIdx.x % 4 == 0) {
        sum[group * job.plan.rows + row] = others + (group == owner ? ties - 1 : ties);
        if (group == 0) state[row].largest = largest;
      }
    }
    __syncthreads();
    for (int row = threadIdx.x; row < job.plan.rows; row += blockDim.x) {
      float others = 0, total = 0;
      for (int g = 0; g < used; ++g) others += sum[g * job.plan.rows + row], total += loss[g * job.plan.rows + row];
      const bool none = state[row].largest < kLeastLogit;
      const float scale = inverse[row] * job.target.keep, spread = spread_of(row) * float(job.target.c);
      state[row].log_z = none ? kInfinity : log1pf(others) * kLog2E;
      state[row].others = others;
      state[row].share = total * scale + (spread + share[row] * 0.0f);
    }
    __syncthreads();
  }

  // What smoothing gives each class of a row.
  MULTIMIX_DEVICE float spread_of(int row) const {
    return (job.target.labels != nullptr ? share[row] : inverse[row] == 0 ? 0.0f : 1.0f) * job.target.uniform;
  }

  // loss = sum_j y_j (lse - l_j), which does not cancel; delta_j = (T p_j - y_j) factor, for T = sum_j y_j. refined:
  // from the states of `refine`, delta_j = ((T - y_j) p_j - y_j (1 - p_j)) factor, which does not cancel for p_j near
  // one.
  template <bool refined>
  MULTIMIX_DEVICE float differentiate(const float (&logits)[kPairs][2][4], const float (&mixed)[kPairs][2][4],
                                      const float (&unit)[2], int64_t first, int location) {
    float total = 0;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(half);
      const int64_t k = first + row;
      const SmallState s = state[row];
      const float scale = scale_of(unit[half]), spread = spread_of(row);
      float factor = job.target.c == 1 ? 0.0f : unit[half];  // one class: exactly nothing, whatever the rounding
      if (job.grad_rows && k < job.draw.n) factor *= job.grad_rows[int64_t(location) * job.draw.n + k];
      const float p_factor = refined ? 1 / (1 + s.others) : s.share * factor, y_scale = unit[half] * job.target.keep;
      float own = s.share * 0.0f;  // a label that does not exist has a NaN mass
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
        const int first_class = (group + p * groups) * 16;
        if (first_class >= job.plan.classes) break;
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          float d[2];
#pragma unroll
          for (int e = 0; e < 2; ++e) {
            const float l = logits[p][n][half * 2 + e];
            const float shifted = refined ? (l - s.largest) * scale : l * scale - s.largest;
            float y = mixed[p][n][half * 2 + e] * y_scale + spread;
            if (first_class + 16 > job.target.c && first_class + n * 8 + lane_column() + e >= job.target.c) y = 0;
            own += y * (y == 0 ? 0.0f : s.log_z - shifted);  // a class masked with minus infinity costs nothing
            const float q = fast_exp2(shifted) * p_factor;
            d[e] = q - y * factor;
            if (refined) d[e] = ((s.share - y) * q - y * (shifted == 0 ? s.others * p_factor : 1 - q)) * factor;
          }
          if (job.partial) store(row, first_class + n * 8 + lane_column(), d[0], d[1]);
        }
      }
      total += own;
      if (job.rows) {
        own = quad_sum(own);
        if (threadIdx.x % 4 == 0) loss[group * job.plan.rows + row] = own;
      }
    }
    return total;
  }

  // Two elements of delta. The 8 bits of bfloat16 are too few for it, and its product is cheap here: a second half
  // holds what the first leaves out.
  MULTIMIX_DEVICE void store(int row, int j, float left, float right) const {
    const int at = row * job.plan.class_pitch + j;
    if constexpr (sizeof(T) == 2) {
      const uint32_t high = pack<T>(left, right);
      *reinterpret_cast<uint32_t*>(delta + at) = high;
      if constexpr (kTwoHalves)
        *reinterpret_cast<uint32_t*>(rest + at) =
            pack<T>(left - __uint_as_float(high << 16), right - __uint_as_float(high & 0xffff0000u));
    } else {
      *reinterpret_cast<float2*>(delta + at) = float2{round_operand<operand>(left), round_operand<operand>(right)};
    }
  }

  MULTIMIX_DEVICE void store_rows(int64_t first, int location) const {
    const int used = min(groups, pairs);
    for (int row = threadIdx.x; row < job.plan.rows; row += blockDim.x) {
      float total = 0;
      for (int g = 0; g < used; ++g) total += loss[g * job.plan.rows + row];
      if (first + row < job.draw.n)
        job.rows[int64_t(location) * job.draw.n + first + row] = total * (job.target.c == 1 ? 0.0f : kLn2);
    }
  }

  // The sum over the block's threads, in a fixed order.
  MULTIMIX_DEVICE void store_sum(float total) const {
    total = warp_sum(total);
    __syncthreads();
    if (threadIdx.x % kWarp == 0) loss[warp] = total;
    __syncthreads();
    if (threadIdx.x != 0) return;
    total = 0;
    for (int w = 0; w < job.plan.warps; ++w) total += loss[w];
    add_to_slot(job.sums + blockIdx.x, total * (job.target.c == 1 ? 0.0f : kLn2), job.first_location == 0);
  }
};

}  // namespace multimix
