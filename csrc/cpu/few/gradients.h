// Gradients that rows of few examples are scattered to: of an operand (r, b, columns), and of the attention (r, b).
//
// Each group of a location's rows adds in the order of its rows, and the groups are added up in order: the same bits
// for any number of threads. Chains of sums are kept short, as those of equal terms would drift: in a long group they
// join another sum. May include schedule.h.
#pragma once

#include "cpu/schedule.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
class ScatteredGradients {
  using F = typename Simd<Real>::F;
  static constexpr int N = Simd<Real>::lanes;
  static constexpr int64_t kChain = 64;  // terms that an example's row gets before they join the others, about
  static constexpr int64_t kPiece = 16;  // rows that are added up by one task

 public:
  // Where they are written, times the scale; null if they are not wanted.
  struct Result {
    Real* operand;
    int64_t columns;
    Real* attention;
    Real scale;
  };

  // What a group adds to while it works: rows `pitch` apart.
  struct Group {
    Real *operand, *attention;
    int64_t rows = 0;  // since the last join
  };

  static int64_t size(int64_t b, int64_t pitch, bool attention) { return 2 * (b * pitch + (attention ? b : 0)); }

  ScatteredGradients(const Schedule& schedule, const Draw& draw, int64_t pitch, const Result& result)
      : result_(result),
        groups_(schedule.groups),
        b_(draw.b),
        pitch_(pitch),
        count_(size(b_, pitch, result.attention != nullptr) / 2),
        chain_(std::max<int64_t>(kChain * b_ / draw.m, 1)),
        stride_(schedule.rows > chain_ ? 2 * count_ : count_),
        memory_(groups_ > 1 ? schedule.wave * groups_ * stride_ : 0, "partial gradients") {}

  // A thread's own sums, where a location is one group.
  Buffer<Real> make_sums() const { return Buffer<Real>(groups_ > 1 ? 0 : stride_, "partial gradients"); }

  Group begin(int64_t k, int64_t group, const Buffer<Real>& own) const {
    Real* sums = groups_ > 1 ? memory_.get() + (k * groups_ + group) * stride_ : own.get();
    std::fill_n(sums, stride_, Real(0));
    return {sums, sums + b_ * pitch_};
  }

  // After some rows.
  void join(Group& sums, int64_t rows) const {
    sums.rows += rows;
    if (sums.rows >= chain_) join(sums);
  }

  void end(Group& sums, int64_t location) const {
    join(sums);
    if (groups_ > 1) return;
    const Real* totals = sums.operand + stride_ - count_;
    if (result_.operand) add_up_operand(totals, location, 0, b_);
    if (result_.attention) add_up_attention(totals, location);
  }

  // When all groups of the wave's `count` locations have ended.
  void end_wave(ParallelFor run, int64_t first, int64_t count) const {
    if (groups_ == 1) return;
    const int64_t pieces = (b_ + kPiece - 1) / kPiece;
    if (result_.operand)
      parallel(run, count * pieces, [&](int64_t item) {
        const int64_t k = item / pieces, row = item % pieces * kPiece;
        add_up_operand(totals(k), first + k, row, std::min(row + kPiece, b_));
      });
    if (result_.attention) parallel(run, count, [&](int64_t k) { add_up_attention(totals(k), first + k); });
  }

 private:
  // Of the first group of the wave's k-th location.
  const Real* totals(int64_t k) const { return memory_.get() + k * groups_ * stride_ + stride_ - count_; }

  void join(Group& sums) const {
    sums.rows = 0;
    if (stride_ == count_) return;
    Real* total = sums.operand + count_;
    for (int64_t j = 0; j < count_; ++j) {
      total[j] += sums.operand[j];
      sums.operand[j] = 0;
    }
  }

  // Rows [begin, end), from the sums of the location's first group.
  void add_up_operand(const Real* first, int64_t location, int64_t begin, int64_t end) const {
    const int64_t columns = result_.columns;
    Real* to = result_.operand + location * b_ * columns;
    for (int64_t i = begin; i < end; ++i)
      for (int64_t j = 0; j < columns; j += N) {
        const Real* from = first + i * pitch_ + j;
        F sum = load<F>(from);
        for (int64_t group = 1; group < groups_; ++group) sum += load<F>(from + group * stride_);
        sum *= result_.scale;
        // A whole vector may run over into the rows that follow.
        if ((end - i) * columns - j >= N) {
          store(to + i * columns + j, sum);
        } else {
          for (int64_t l = 0; l < std::min<int64_t>(N, columns - j); ++l) to[i * columns + j + l] = sum[l];
        }
      }
  }

  void add_up_attention(const Real* first, int64_t location) const {
    const Real* from = first + b_ * pitch_;
    for (int64_t i = 0; i < b_; ++i) {
      Real sum = from[i];
      for (int64_t group = 1; group < groups_; ++group) sum += from[group * stride_ + i];
      result_.attention[location * b_ + i] = sum * result_.scale;
    }
  }

  Result result_;
  int64_t groups_, b_, pitch_, count_, chain_, stride_;
  Buffer<Real> memory_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
