// The mixtures of a tile of rows as the operators read them: weights in one type, drawn in another. May include
// few/weights.h and schedule.h.
#pragma once

#include "cpu/few/transpose.h"
#include "cpu/few/weights.h"
#include "cpu/schedule.h"

namespace multimix {
namespace MULTIMIX_ISA {

template <class Real>
class FewMixtures {
  using F = typename Simd<Real>::F;
  static constexpr int N = Simd<Real>::lanes;

 public:
  int64_t count() const { return m_; }
  const uint32_t* examples(int64_t t, int64_t row) const { return tile_.example(t, row); }
  F weights(int64_t t, int64_t row) const { return load<F>(tile_.weight(t, row)); }
  Real weight(int64_t t, int64_t row) const { return *tile_.weight(t, row); }
  Real derivative(int64_t t, int64_t row) const { return tile_.has_plain() ? *tile_.derivative(t, row) : Real(0); }

  // Calls use(slot, example, weight) for each example of a row that has a weight, or whose weight has a derivative by
  // the attention.
  template <class Use>
  MULTIMIX_INLINE void each(int64_t row, const Use& use) const {
    for (int64_t t = 0; t < m_; ++t) {
      const Real weight = *tile_.weight(t, row);
      if (weight != 0 || derivative(t, row) != 0) use(t, int64_t(*tile_.example(t, row)), weight);
    }
  }

  // Mixtures of values (b, pitch) for N rows: use(j, x) with columns j ... j + N - 1 for each N of pitch, a row in each
  // lane.
  template <class Use>
  MULTIMIX_INLINE void mix(int64_t row, const Real* values, int64_t pitch, const Use& use) const {
    switch (has_zero(row) ? 0 : m_) {
      case 2: return mix<2>(row, values, pitch, use);
      case 3: return mix<3>(row, values, pitch, use);
      case 4: return mix<4>(row, values, pitch, use);
      default: return mix<0>(row, values, pitch, use);
    }
  }

  // g of each slot less its mean by weight, for the examples that `each` calls: relative to that of the largest weight,
  // so that a row of one example gives exactly zero, which a derivative as large as attention is small does not blow
  // up.
  void centre(int64_t row, Real* g) const {
    Real largest = 0, base = 0, mean = 0;
    each(row, [&](int64_t t, int64_t, Real weight) {
      if (weight > largest) largest = weight, base = g[t];
    });
    each(row, [&](int64_t t, int64_t, Real weight) {
      g[t] -= base;
      mean += weight == 0 ? Real(0) : weight * g[t];
    });
    for (int64_t t = 0; t < m_; ++t) g[t] -= mean;
  }

 protected:
  FewMixtures(int64_t m, int64_t max_rows, bool want_plain) : m_(m), tile_(m, max_rows, want_plain) {}

  // Takes weights from the tile of another type, or from its own; none is left in the last vector's lanes beyond.
  template <class From>
  void finish(int64_t rows, const FewTile<From>& from) {
    for (int64_t t = 0; t < m_; ++t) {
      for (int64_t row = 0; row < rows; ++row) *tile_.weight(t, row) = MULTIMIX_ISA::weight<Real>(*from.weight(t, row));
      std::fill_n(tile_.weight(t, rows), round_up(rows, N) - rows, Real(0));
      if constexpr (std::is_same_v<From, Real>) continue;
      std::copy_n(from.example(t, 0), round_up(rows, Simd<From>::lanes), tile_.example(t, 0));
      if (!tile_.has_plain()) continue;
      for (int64_t row = 0; row < rows; ++row) *tile_.derivative(t, row) = Real(*from.derivative(t, row));
    }
  }

  int64_t m_;
  FewTile<Real> tile_;

 private:
  bool has_zero(int64_t row) const {
    auto zero = weights(0, row) == 0;
    for (int64_t t = 1; t < m_; ++t) zero |= weights(t, row) == 0;
    return any(zero);
  }

  // M: the examples of a row, none without a weight; 0: any number. Zero times the score of a masked class is zero.
  template <int M, class Use>
  MULTIMIX_INLINE void mix(int64_t row, const Real* values, int64_t pitch, const Use& use) const {
    alignas(64) Real rows[N * N];
    for (int64_t j = 0; j < pitch; j += N) {
      for (int l = 0; l < N; ++l) {
        F x{};
        bool first = true;
#pragma GCC unroll 4
        for (int64_t t = 0; t < (M == 0 ? m_ : M); ++t) {
          const Real weight = *tile_.weight(t, row + l);
          if (M == 0 && weight == 0) continue;
          const F v = load<F>(values + *tile_.example(t, row + l) * pitch + j) * weight;
          x = first ? v : x + v;
          first = false;
        }
        store(rows + l * N, x);
      }
      F x[N];
      load_transposed(rows, N, x);
      use(j, x);
    }
  }
};

// Mixtures of a draw.
template <class Real, class DrawReal>
class DrawnMixtures : public FewMixtures<Real> {
  static constexpr bool kSame = std::is_same_v<Real, DrawReal>;

 public:
  DrawnMixtures(const Draw& draw, int64_t max_rows, bool want_plain)
      : FewMixtures<Real>(draw.m, max_rows, want_plain),
        sampler_(draw, max_rows),
        drawn_(draw.m, kSame ? 0 : max_rows, want_plain) {}

  void draw(int64_t location, int64_t first, int64_t rows) {
    if constexpr (kSame) {
      sampler_.draw(location, first, rows, this->tile_);
      this->finish(rows, this->tile_);
    } else {
      sampler_.draw(location, first, rows, drawn_);
      this->finish(rows, drawn_);
    }
  }

 private:
  FewSampler<DrawReal> sampler_;
  FewTile<DrawReal> drawn_;
};

// Nanoseconds of one thread, about, for a row of m examples and a vector of `width` numbers.
inline double few_row_ns(int64_t m, int64_t width) { return 2 * kGammaNs * double(m) + kLogitNs * double(width); }

// Calls body(i) for i in [0, count), each of about ns, with a body for each of the tasks that a thread takes at a time:
// what make() returns.
template <class Make>
void in_shares(ParallelFor run, int64_t count, double ns, const Make& make) {
  run(
      count, ns,
      [](int64_t begin, int64_t end, void* context) {
        auto body = (*static_cast<const Make*>(context))();
        for (int64_t i = begin; i < end; ++i) body(i);
      },
      const_cast<void*>(static_cast<const void*>(&make)));
}

}  // namespace MULTIMIX_ISA
}  // namespace multimix
