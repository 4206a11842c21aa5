// Weights in one type, drawn in another: float weights of small concentrations are drawn in double.
#pragma once

#include "cpu/weights.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real, class DrawReal>
class TileSampler {
 public:
  TileSampler(const Draw& draw, int64_t max_rows) : sampler_(draw, max_rows), stride_(Sampler<Real>::stride(draw.b)) {
    if constexpr (!std::is_same_v<Real, DrawReal>)
      for (auto* values : {&mu_, &plain_}) values->resize(max_rows * stride_ + Sampler<DrawReal>::padding());
  }

  void draw(int64_t location, int64_t first, int64_t rows, Real* mu, Real* plain) {
    if constexpr (std::is_same_v<Real, DrawReal>) {
      sampler_.draw(location, first, rows, mu, plain);
    } else {
      sampler_.draw(location, first, rows, mu_.data(), plain ? plain_.data() : nullptr);
      for (int64_t i = 0; i < rows * stride_; ++i) mu[i] = weight<Real>(mu_[i]);
      // As large as attention is small: finite, as others are.
      const DrawReal largest = std::numeric_limits<Real>::max();
      for (int64_t i = 0; plain && i < rows * stride_; ++i) plain[i] = weight<Real>(std::min(plain_[i], largest));
    }
  }

 private:
  Sampler<DrawReal> sampler_;
  int64_t stride_;
  Vector<DrawReal> mu_, plain_;
};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
