// Weights of mixtures of few examples, written out: rows of zeros with m weights each.
//
// What it costs is the drawing of m gammas and the writing of b elements, which no m makes less.
#pragma once

#include "cpu/elements.h"
#include "cpu/few/mixtures.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real, class DrawReal>
class FewSample {
  static constexpr int64_t kTile = 128;
  static constexpr int64_t kZeroed = 8 << 10;  // bytes at a time: they are in the nearest cache when weights follow

 public:
  FewSample(const SampleJob& job, ParallelFor run) {
    const int64_t tiles = (job.draw.n + kTile - 1) / kTile;
    in_shares(run, job.draw.r * tiles, kTile * few_row_ns(job.draw.m, job.draw.b / 8), [&] {
      return [&job, tiles, mixtures = DrawnMixtures<Real, DrawReal>(job.draw, kTile, false)](int64_t item) mutable {
        const int64_t first = item % tiles * kTile, rows = std::min(kTile, job.draw.n - first);
        mixtures.draw(item / tiles, first, rows);
        write(job, mixtures, item / tiles * job.draw.n + first, rows);
      };
    });
  }

 private:
  static void write(const SampleJob& job, const FewMixtures<Real>& mixtures, int64_t first, int64_t rows) {
    const int64_t b = job.draw.b, row_bytes = b * bytes_of(job.dtype);
    const int64_t strip = std::clamp<int64_t>(kZeroed / row_bytes, 1, rows);
    const bool same = job.dtype == (std::is_same_v<Real, float> ? DType::kFloat32 : DType::kFloat64);
    for (int64_t row = 0; row < rows; ++row) {
      if (row % strip == 0)
        std::memset(static_cast<char*>(job.weights) + (first + row) * row_bytes, 0,
                    std::min(strip, rows - row) * row_bytes);
      mixtures.each(row, [&](int64_t, int64_t example, Real weight) {
        const int64_t at = (first + row) * b + example;
        if (same)
          static_cast<Real*>(job.weights)[at] = weight;
        else
          write_row(job.weights, job.dtype, at, 1, &weight);
      });
    }
  }

  static int64_t bytes_of(DType dtype) { return dtype == DType::kFloat64 ? 8 : dtype == DType::kFloat32 ? 4 : 2; }
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
