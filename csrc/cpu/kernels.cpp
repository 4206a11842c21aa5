// Every kernel of one instruction set; compiled once for each, see simd.h.
#include "cpu/few/loss.h"
#include "cpu/few/mix.h"
#include "cpu/few/sample.h"
#include "cpu/loss.h"
#include "cpu/mix.h"
#include "cpu/mixed.h"
#include "cpu/soft.h"
#include "cpu/tile_weights.h"

namespace multimix {
namespace MULTIMIX_ISA {
namespace {

// Calls body with a Real and the type it is drawn in as (zero) arguments.
template <class Body>
void dispatch(bool wide, bool exact, const Body& body) {
  if (wide) return body(double(), double());
  exact ? body(float(), double()) : body(float(), float());
}

// Tasks are runs of tiles of rows, so that the memory of each is made once: work(location, first, rows).
template <class MakeWork>
void in_tiles(const Draw& draw, int64_t tile, ParallelFor run, const MakeWork& make_work) {
  const int64_t tiles = (draw.n + tile - 1) / tile, all = draw.r * tiles, tasks = std::min<int64_t>(all, 64);
  const auto body = [&](int64_t task) {
    auto work = make_work();
    for (int64_t k = task * all / tasks; k < (task + 1) * all / tasks; ++k) {
      const int64_t first = k % tiles * tile;
      work(k / tiles, first, std::min(tile, draw.n - first));
    }
  };
  parallel(run, tasks, body, double(draw.r * draw.n) / tasks * draw.m * kGammaNs);
}

template <class Real, class DrawReal>
void sample_all(const SampleJob& job, ParallelFor run) {
  const Draw& draw = job.draw;
  const int64_t b = draw.b, stride = Sampler<Real>::stride(b);
  const int64_t tile = std::clamp<int64_t>(kTileBytes / (stride * sizeof(Real)), 1, 512);
  in_tiles(draw, tile, run, [&] {
    return [&draw, &job, b, stride, sampler = std::make_shared<TileSampler<Real, DrawReal>>(draw, tile),
            mu = Vector<Real>(tile * stride + Sampler<Real>::padding())](int64_t location, int64_t first,
                                                                         int64_t rows) mutable {
      sampler->draw(location, first, rows, mu.data(), nullptr);
      const int64_t offset = (location * draw.n + first) * b;
      if (stride == b) return write_row(job.weights, job.dtype, offset, rows * b, mu.data());
      for (int64_t row = 0; row < rows; ++row)
        write_row(job.weights, job.dtype, offset + row * b, b, mu.data() + row * stride);
    };
  });
}

void sample(const SampleJob& job, ParallelFor run) {
  dispatch(job.dtype == DType::kFloat64, job.draw.exact, [&](auto real, auto draw_real) {
    using Real = decltype(real);
    using DrawReal = decltype(draw_real);
    if (draws_few(job.draw))
      FewSample<Real, DrawReal>(job, run);
    else
      sample_all<Real, DrawReal>(job, run);
  });
}

void mix(const MixJob& job, ParallelFor run) {
  dispatch(job.wide, job.draw.exact, [&](auto real, auto draw_real) {
    if (draws_few(job.draw))
      FewMix<decltype(real), decltype(draw_real)>(job, run);
    else
      Mix<decltype(real), decltype(draw_real)>(job, run);
  });
}

void cross_entropy(const LossJob& job, ParallelFor run) {
  dispatch(job.wide, job.draw.exact, [&](auto real, auto draw_real) {
    using Real = decltype(real);
    using DrawReal = decltype(draw_real);
    if (few_fits<Real>(job))
      FewCrossEntropy<Real, DrawReal>(job, run);
    else if (job.mix_scores)
      CrossEntropy<Real, DrawReal, MixedScores>(job, run);
    else
      CrossEntropy<Real, DrawReal, GivenLogits>(job, run);
  });
}

#define MULTIMIX_STRING_(x) #x
#define MULTIMIX_STRING(x) MULTIMIX_STRING_(x)
}  // namespace

extern const Kernels kernels;
const Kernels kernels = {MULTIMIX_STRING(MULTIMIX_ISA), sample, mix, cross_entropy};

}  // namespace MULTIMIX_ISA
}  // namespace multimix
