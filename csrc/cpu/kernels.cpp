// Every kernel of one instruction set; compiled once for each, see simd.h.
#include "cpu/few_weights.h"
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

void sample(const SampleJob& job, ParallelFor run) {
  const Draw& draw = job.draw;
  dispatch(job.dtype == DType::kFloat64, draw.exact, [&](auto real, auto draw_real) {
    using Real = decltype(real);
    const int64_t stride = Sampler<Real>::stride(draw.b);
    const int64_t tile = std::clamp<int64_t>(kTileBytes / (stride * sizeof(Real)), 1, 512);
    const int64_t tiles = (draw.n + tile - 1) / tile;
    // A task is a run of tiles, so that its memory is made once.
    const int64_t tasks = std::min<int64_t>(draw.r * tiles, 64), all = draw.r * tiles;
    parallel(run, tasks, [&](int64_t task) {
      TileSampler<Real, decltype(draw_real)> sampler(draw, tile);
      Buffer<Real> mu(tile * stride + Sampler<Real>::padding());
      for (int64_t k = task * all / tasks; k < (task + 1) * all / tasks; ++k) {
        const int64_t location = k / tiles, first = k % tiles * tile, rows = std::min(tile, draw.n - first);
        sampler.draw(location, first, rows, mu.get(), nullptr);
        const int64_t offset = (location * draw.n + first) * draw.b;
        if (stride == draw.b) {
          write_row(job.weights, job.dtype, offset, rows * draw.b, mu.get());
        } else {
          for (int64_t row = 0; row < rows; ++row)
            write_row(job.weights, job.dtype, offset + row * draw.b, draw.b, mu.get() + row * stride);
        }
      }
    });
  });
}

void mix(const MixJob& job, ParallelFor run) {
  dispatch(job.wide, job.draw.exact,
           [&](auto real, auto draw_real) { Mix<decltype(real), decltype(draw_real)>(job, run); });
}

void cross_entropy(const LossJob& job, ParallelFor run) {
  dispatch(job.wide, job.draw.exact, [&](auto real, auto draw_real) {
    using Real = decltype(real);
    using DrawReal = decltype(draw_real);
    if (job.mix_scores)
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
