// The loss of one row of logits by a team: the record of the row, chunk by chunk, and against labels its loss and
// gradients.
#pragma once

#include "cuda/soft/row_stager.h"
#include "cuda/sums/mass.h"

namespace multimix {

template <class T>
MULTIMIX_DEVICE void unpack(uint32_t word, float (&x)[4 / sizeof(T)]) {
  if constexpr (sizeof(T) == 2) {
    x[0] = to_float(T{uint16_t(word)}), x[1] = to_float(T{uint16_t(word >> 16)});
  } else {
    x[0] = __uint_as_float(word);
  }
}

// Four neighbouring logits.
template <class T>
MULTIMIX_DEVICE void load_four(const T* from, float (&x)[4]) {
  if constexpr (sizeof(T) == 2) {
    const uint2 bits = *reinterpret_cast<const uint2*>(from);
    float low[2], high[2];
    unpack<T>(bits.x, low), unpack<T>(bits.y, high);
    x[0] = low[0], x[1] = low[1], x[2] = high[0], x[3] = high[1];
  } else {
    const float4 four = *reinterpret_cast<const float4*>(from);
    x[0] = four.x, x[1] = four.y, x[2] = four.z, x[3] = four.w;
  }
}

// Logits are T, weights W.
template <class T, class W, bool wide>
class RowLoss {
  static constexpr int kVector = 16 / sizeof(T);

 public:
  // mixed: of the chunk's classes, the sums of the weights that have their label.
  MULTIMIX_DEVICE RowLoss(const RowsJob& job, Team<std::bool_constant<wide>> team, float* mixed)
      : labels_(job.labels), block_(job.block), team_(team), mixed_(mixed) {
    if (job.records) return;
    count_ = labels_.counts[0], known_ = labels_.counts[1];
    for (lanes_ = 1; lanes_ < kWarp && count_ * lanes_ * 2 <= team_.size;) lanes_ *= 2;
  }

  // A row with these weights begins.
  MULTIMIX_DEVICE void begin(const W* weights) {
    record = {-INFINITY, 0, 0, 0}, loss_ = 0;
    for (int i = team_.rank; i < block_.b; i += team_.size) record.share += to_float(weights[i]) * block_.mass[i];
  }

  // Sums are relative to the largest logit so far.
  MULTIMIX_DEVICE void add(const Chunk<T>& chunk) {
    float top = record.top;
    each_logit(chunk, [&](float x) { top = fmaxf(top, x); });
    top = team_.max(top);
    const float origin = top == -INFINITY ? 0.0f : top;
    if (chunk.first > 0) {
      record.log_z *= fast_exp2((record.top - origin) * kLog2E);
      if (team_.rank == 0 && record.top > -INFINITY) record.below += chunk.first * (origin - record.top);
    }
    // Smoothing gives masked classes a target, and the loss is infinite; otherwise they do not count.
    const float least = block_.uniform != 0 ? -INFINITY : -1e38f;
    float z = 0, below = 0;
    each_logit(chunk, [&](float x) {
      const float difference = x - origin;
      z += fast_exp2(difference * kLog2E), below -= difference < least ? 0.0f : difference;
    });
    record.top = top, record.log_z += z, record.below += below;
  }

  // From the sums of all chunks to the record.
  MULTIMIX_DEVICE void complete(float inverse) {
    record.log_z = logf(team_.sum(record.log_z));
    record.below = team_.sum(record.below);
    record.share = team_.sum(record.share) * inverse;
    if (record.share > kMostShare) record.share = kNaN;  // targets that are not numbers
  }

  // Adds a chunk's part of the loss, and writes its gradients. weights_gradient may be null.
  MULTIMIX_DEVICE void against_labels(const Chunk<T>& chunk, const W* weights, int64_t index, float inverse,
                                      float* weights_gradient) {
    const float factor = block_.factor(index);
    const float spread = block_.uniform != 0 ? block_.uniform * (record.below + block_.c * record.log_z) : 0.0f;
    if (block_.gradient) {
      const int end = chunk.shift + chunk.count;
      for (int p = team_.rank * 4; p < end; p += team_.size * 4) *reinterpret_cast<float4*>(mixed_ + p) = {0, 0, 0, 0};
      team_.sync();
    }
    add_labels(chunk, weights, spread, factor, weights_gradient);
    if (weights_gradient && chunk.first == 0) {  // of examples without a class, and of none
      for (int e = known_ + team_.rank; e < block_.b; e += team_.size) {
        const int i = labels_.order[e];
        weights_gradient[i] = block_.c == 1 ? 0.0f : block_.mass[i] * spread * factor;
      }
      for (int i = block_.b + team_.rank; i < block_.width; i += team_.size) weights_gradient[i] = 0;
    }
    if (!block_.gradient) return;
    team_.sync();
    write_gradient(chunk, index, factor, inverse);
  }

  // The row's loss, once all of its chunks are added.
  MULTIMIX_DEVICE float finish(float inverse) {
    float loss = team_.sum(loss_) * (block_.keep * inverse);
    if (block_.uniform != 0 && record.share != 0)
      loss += block_.uniform * record.share * (record.below + block_.c * record.log_z);
    return block_.c == 1 ? record.share * 0.0f : loss + record.share * 0.0f;  // NaN where a label does not exist
  }

  // Of the row at work; log_z is a lane's part of z, share and below are parts too, until the record is complete.
  RowRecord record;

 private:
  template <class Visit>
  MULTIMIX_DEVICE void each_logit(const Chunk<T>& chunk, Visit visit) const {
    const int end = chunk.shift + chunk.count;
    for (int p = team_.rank * kVector; p < end; p += team_.size * kVector) {
      if (p >= chunk.shift && p + kVector <= end) {
        const uint4 bits = *reinterpret_cast<const uint4*>(chunk.at + p);
        const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          float x[4 / sizeof(T)];
          unpack<T>(words[w], x);
#pragma unroll
          for (int e = 0; e < int(4 / sizeof(T)); ++e) visit(x[e]);
        }
      } else {
#pragma unroll 1
        for (int q = max(p, chunk.shift); q < min(p + kVector, end); ++q) visit(to_float(chunk.at[q]));
      }
    }
  }

  // Each class that occurs, by `lanes_` lanes in a fixed order: the sum of its examples' weights, and their loss.
  MULTIMIX_DEVICE void add_labels(const Chunk<T>& chunk, const W* weights, float spread, float factor,
                                  float* weights_gradient) {
    for (int from = 0; from < count_; from += team_.size / lanes_) {
      const int at = from + team_.rank / lanes_;
      uint4 own = {0, 0, 0, 0};  // a class, and its first and its end in the order
      if (at < count_) own = labels_.classes[at];
      const int j = int(own.x), end = int(own.z);
      const bool here = at < count_ && j >= chunk.first && j < chunk.first + chunk.count;
      const float distance = here ? (record.top - chunk.logit(j)) + record.log_z : 0.0f;
      float sum = 0;
      for (int e = here ? int(own.y) + team_.rank % lanes_ : end; e < end; e += lanes_) {
        const int i = labels_.order[e];
        sum += to_float(weights[i]);
        if (weights_gradient) weights_gradient[i] = block_.c == 1 ? 0.0f : (block_.keep * distance + spread) * factor;
      }
      sum = combine_lanes(sum, Add(), lanes_);
      if (here && team_.rank % lanes_ == 0) {
        loss_ += sum == 0 ? 0.0f : sum * distance;  // a class masked with minus infinity costs nothing
        if (block_.gradient) mixed_[chunk.shift + j - chunk.first] = sum;
      }
    }
  }

  // T softmax - mixed target, of a chunk's classes.
  MULTIMIX_DEVICE void write_gradient(const Chunk<T>& chunk, int64_t index, float factor, float inverse) const {
    const float scale = block_.c == 1 ? 0.0f : factor * block_.scaled();
    const float share = scale * record.share, keep = scale * block_.keep * inverse, uniform = share * block_.uniform;
    const float log2_z = record.log_z * kLog2E;
    const auto gradient = [&](float x, float mixed) {
      const float p = fast_exp2((x - record.top) * kLog2E - log2_z);
      return block_.c == 1 ? 0.0f : share * p - (keep * mixed + uniform);
    };
    const int end = chunk.shift + chunk.count;
    float* out = block_.gradient + index * block_.c + chunk.first - chunk.shift;
    for (int p = team_.rank * 4; p < end; p += team_.size * 4) {
      if (p >= chunk.shift && p + 4 <= end) {
        const float4 mixed = *reinterpret_cast<const float4*>(mixed_ + p);
        float x[4];
        load_four(chunk.at + p, x);
        *reinterpret_cast<float4*>(out + p) = {gradient(x[0], mixed.x), gradient(x[1], mixed.y),
                                               gradient(x[2], mixed.z), gradient(x[3], mixed.w)};
      } else {
#pragma unroll 1
        for (int q = max(p, chunk.shift); q < min(p + 4, end); ++q) out[q] = gradient(to_float(chunk.at[q]), mixed_[q]);
      }
    }
  }

  const LabelOrder& labels_;
  const SoftBlock& block_;
  Team<std::bool_constant<wide>> team_;
  float* mixed_;
  int count_ = 0, known_ = 0, lanes_ = 1;
  float loss_;
};

}  // namespace multimix
