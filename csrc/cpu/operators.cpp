// The operators of the "cpu" backend, registered through PyTorch's stable ABI: they read tensors into plain types, make
// the outputs, and run the kernels. No Python, no ATen headers.
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <vector>

#include "abi.h"
#include "cpu/dispatch.h"
#include "cpu/elements.h"
#include "cpu/memory.h"

namespace multimix {
namespace {

std::vector<double> read_doubles(const Tensor& x, int64_t rows, int64_t columns, const char* name) {
  const Strided from = strided(x, x.dim(), name, true);
  std::vector<double> to(rows * columns);
  for (int64_t i = 0; i < rows; ++i) baseline::read_row(from, 0, i, 0, columns, to.data() + i * columns);
  return to;
}

// The draw as the kernels take it, with the memory it points to.
struct OwnedDraw : Draw {
  std::vector<double> alphas, attentions, keeps;
  std::vector<double> scales;  // what each location's attention was divided by

  OwnedDraw(const DrawArguments& from, int64_t b_, int64_t r_, bool wide) {
    seed = uint64_t(*static_cast<const int64_t*>(from.seed.data_ptr()));
    row_offset = uint64_t(from.row_offset);
    n = from.n, m = from.m, b = b_, r = r_, low = from.low, high = from.high;
    double least = low, greatest = high;
    if (from.alpha) {
      alphas = read_doubles(*from.alpha, 1, b, "alpha");
      least = greatest = alphas[0];
      for (const double a : alphas) least = std::min(least, a), greatest = std::max(greatest, a);
    }
    check_alpha(least, greatest);
    alpha = from.alpha ? alphas.data() : nullptr;
    // Below, U^(1/alpha) underflows float, and multiplies its rounding errors by 1/alpha.
    exact = wide || least < 0.3;
    candidates = b;
    if (from.ignored) read_ignored(*from.ignored);
    keep = keeps.empty() ? nullptr : keeps.data();
    if (from.attention) read_attention(*from.attention);
    attention = from.attention ? attentions.data() : nullptr;
  }
  OwnedDraw(const OwnedDraw&) = delete;

  // True if every example is ignored: there is nothing to draw.
  bool is_void() const { return candidates == 0; }

 private:
  void read_ignored(const Tensor& ignored) {
    const bool* flags = static_cast<const bool*>(ignored.data_ptr());
    for (int64_t i = 0; i < b; ++i) candidates -= flags[i * ignored.stride(0)];
    if (candidates == b) return;
    keeps.resize(b);
    for (int64_t i = 0; i < b; ++i) keeps[i] = !flags[i * ignored.stride(0)];
  }

  void read_attention(const Tensor& tensor) {
    attentions = read_doubles(tensor, r, b, "attention");
    scales.assign(r, 1.0);
    for (int64_t j = 0; j < r; ++j) {
      double* row = attentions.data() + j * b;
      double top = 0;
      for (int64_t i = 0; i < b; ++i) {
        if (keep && keep[i] == 0) row[i] = 0;
        top = std::max(top, row[i]);
      }
      if (!(top > 0) || std::isinf(top)) continue;
      scales[j] = top;
      for (int64_t i = 0; i < b; ++i) row[i] /= top;
    }
  }
};

// The target as the kernels take it, with the memory it points to.
struct OwnedTarget : Target {
  std::vector<int64_t> label_values;
  bool all_ignored = false;

  explicit OwnedTarget(const LossArguments& from) {
    const Tensor& tensor = from.target;
    c = from.c(), ignore_index = from.ignore_index, smoothing = from.smoothing;
    labels = nullptr;
    if (tensor.dim() == 2) {
      probabilities = strided(tensor, 2, "target", true);
      return;
    }
    const int64_t* values = static_cast<const int64_t*>(tensor.data_ptr());
    all_ignored = true;
    for (int64_t i = 0; i < from.b(); ++i) {
      const int64_t label = values[i * tensor.stride(0)];
      STD_TORCH_CHECK(label == ignore_index || (label >= 0 && label < c), "target: expected classes in [0, ", c,
                      ") or ignore_index=", ignore_index, ", got ", label);
      all_ignored &= label == ignore_index;
      label_values.push_back(label);
    }
    labels = label_values.data();
  }
  OwnedTarget(const OwnedTarget&) = delete;
};

// Threads take tasks from a queue, as many at a time as are worth the taking: one that comes late, as its processor is
// busy with something else, costs the others what it holds and not its share. What is over sooner than threads are
// awake is done here; where it is not known how long it takes, a part of it is done first and measured.
void run_parallel(int64_t count, double ns, void (*body)(int64_t, int64_t, void*), void* context) {
  using Clock = std::chrono::steady_clock;
  constexpr double kWorthwhile = 50e3, kMeasured = 20e3, kTaken = 20e3;
  const int64_t threads = torch::stable::get_num_threads();
  if (threads == 1 || count == 1) return body(0, count, context);
  int64_t done = 0;
  double elapsed = 0;
  for (const auto start = Clock::now(); ns == 0 && done < count && elapsed < kMeasured; ++done) {
    body(done, done + 1, context);
    elapsed = std::chrono::duration<double, std::nano>(Clock::now() - start).count();
  }
  if (ns == 0) ns = elapsed / double(done);
  const int64_t rest = count - done;
  if (rest == 0) return;
  if (double(rest) * ns < kWorthwhile) return body(done, count, context);
  const int64_t step = std::clamp(int64_t(kTaken / std::max(ns, 1.0)), int64_t(1), (rest + threads - 1) / threads);
  std::atomic<int64_t> next{done};
  torch::stable::parallel_for(0, std::min(threads, (rest + step - 1) / step), 1, [&](int64_t, int64_t) {
    for (int64_t at; (at = next.fetch_add(step, std::memory_order_relaxed)) < count;)
      body(at, std::min(at + step, count), context);
  });
}

ScalarType compute_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

// Not torch::stable::new_empty, which is looked up by its name: three of them were half of a small call.
Tensor make(const Tensor& like, std::vector<int64_t> shape, ScalarType type, const char* what) {
  double bytes = type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
  for (const int64_t size : shape) bytes *= double(size);
  if (bytes > double(std::numeric_limits<int64_t>::max())) baseline::out_of_memory(bytes, what);
  std::vector<int64_t> strides(shape.size());
  int64_t stride = 1;
  for (size_t k = shape.size(); k-- > 0; stride *= std::max<int64_t>(shape[k], 1)) strides[k] = stride;
  const int32_t dtype = torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
  int32_t device = 0;
  AtenTensorHandle made = nullptr;
  const bool failed = aoti_torch_get_device_type(like.get(), &device) ||
                      aoti_torch_empty_strided(int64_t(shape.size()), shape.data(), strides.data(), dtype, device,
                                               like.get_device_index(), &made);
  if (failed) baseline::out_of_memory(bytes, what);
  Tensor x(made);
  baseline::advise_huge_pages(x.data_ptr(), size_t(bytes));
  return x;
}

// An output that is empty if it is not wanted.
Tensor make_if(bool wanted, const Tensor& like, std::vector<int64_t> shape, const char* what) {
  return make(like, wanted ? std::move(shape) : std::vector<int64_t>{0}, compute_type(like), what);
}

void* pointer_if(bool wanted, const Tensor& x) { return wanted ? x.data_ptr() : nullptr; }

void set_scalar(Tensor& x, double value) {
  if (x.scalar_type() == ScalarType::Double)
    *static_cast<double*>(x.data_ptr()) = value;
  else
    *static_cast<float*>(x.data_ptr()) = float(value);
}

// The kernels saw attention divided by its maximum.
template <class Real>
void unscale(const OwnedDraw& draw, Tensor& grad_attention) {
  Real* g = static_cast<Real*>(grad_attention.data_ptr());
  for (int64_t j = 0; j < draw.r; ++j)
    for (int64_t i = 0; i < draw.b; ++i) g[j * draw.b + i] = Real(g[j * draw.b + i] / draw.scales[j]);
}

void unscale(const OwnedDraw& draw, Tensor& grad_attention) {
  grad_attention.scalar_type() == ScalarType::Double ? unscale<double>(draw, grad_attention)
                                                     : unscale<float>(draw, grad_attention);
}

bool is_wide(const Tensor& x) { return x.scalar_type() == ScalarType::Double; }

MixJob mix_job(const OwnedDraw& draw, const Tensor& values) {
  MixJob job{};
  job.draw = draw;
  job.wide = is_wide(values);
  job.values = strided(values, 3, "values", true);
  job.d = values.size(2);
  return job;
}

// The largest size of factors (r, n), a number to divide them by.
double largest(const Strided& x, int64_t r, int64_t n) {
  double top = 0, chunk[1024];
  for (int64_t j = 0; j < r; ++j)
    for (int64_t k = 0; k < n; k += 1024) {
      const int64_t count = std::min<int64_t>(1024, n - k);
      baseline::read_row(x, 0, j, k, count, chunk);
      for (int64_t i = 0; i < count; ++i) top = std::max(top, std::abs(chunk[i]));
    }
  return top >= 1e-30 && top <= 1e30 ? top : 1;
}

// Whether scores may be multiplied as bfloat16: if they are that, or if PyTorch's precision of float32 products on the
// CPU says so. The stable ABI cannot ask, so Python registers an operator that does; small calls are not worth it.
bool may_be_narrow(const LossJob& job) {
  if (job.operand.dtype != DType::kFloat32) return job.operand.dtype == DType::kBFloat16;
  if (double(job.draw.r * job.draw.n) * job.draw.b * job.target.c < 1 << 20) return false;
  std::array<StableIValue, 1> stack{};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("multimix_cpu::bfloat16_allowed", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<bool>(stack[0]);
}

// Both losses in both directions.
struct LossCall {
  const LossArguments& from;
  OwnedDraw draw;
  OwnedTarget target;
  Tensor grad_operand, grad_attention;

  explicit LossCall(const LossArguments& from)
      : from(from),
        draw(from.draw, from.b(), from.r(), is_wide(from.operand)),
        target(from),
        grad_operand(make_if(from.want.operand, from.operand, {from.r(), from.operand.size(1), from.c()}, "gradient")),
        grad_attention(make_if(from.want.attention, from.operand, {from.r(), from.b()}, "gradient of the attention")) {}

  // Fills rows (r, n) and the gradients; returns the sum of the rows.
  double run(void* rows, const Tensor* grad_rows, double scale) {
    double total = 0;
    LossJob job{};
    job.draw = draw;
    job.target = target;
    job.wide = is_wide(from.operand);
    job.mix_scores = from.mix_scores;
    job.operand = strided(from.operand, 3, "operand", true);
    job.narrow = from.mix_scores && multiplies_pairs() && may_be_narrow(job);
    if (grad_rows) job.grad_rows = strided(*grad_rows, 2, "grad_rows", true);
    job.scale = grad_rows ? largest(job.grad_rows, draw.r, draw.n) : scale;
    job.rows = rows;
    job.total = &total;
    job.grad_operand = pointer_if(from.want.operand, grad_operand);
    job.grad_attention = pointer_if(from.want.attention, grad_attention);
    kernels().cross_entropy(job, run_parallel);
    if (from.want.attention) unscale(draw, grad_attention);
    return total;
  }

  void zero_gradients() {
    torch::stable::zero_(grad_operand);
    torch::stable::zero_(grad_attention);
  }
};

struct Cpu {
  static Tensor sample(int64_t b, int64_t r, ScalarType dtype, const DrawArguments& arguments) {
    const DType type = dtype_of(dtype, "dtype", true);
    const OwnedDraw draw(arguments, b, r, type == DType::kFloat64);
    Tensor weights = make(arguments.seed, {r, draw.n, b}, dtype, "weights");
    if (draw.is_void()) return torch::stable::zero_(weights);
    kernels().sample({draw, type, weights.data_ptr()}, run_parallel);
    return weights;
  }

  static Tensor mix(const Tensor& values, const DrawArguments& arguments) {
    const OwnedDraw draw(arguments, values.size(1), values.size(0), is_wide(values));
    Tensor mixed = make(values, {draw.r, draw.n, values.size(2)}, values.scalar_type(), "mixed embeddings");
    if (draw.is_void()) return torch::stable::zero_(mixed);
    MixJob job = mix_job(draw, values);
    job.mixed = mixed.data_ptr();
    kernels().mix(job, run_parallel);
    return mixed;
  }

  static std::tuple<Tensor, Tensor> mix_backward(const Tensor& grad, const Tensor& values, Want want,
                                                 const DrawArguments& arguments) {
    const OwnedDraw draw(arguments, values.size(1), values.size(0), is_wide(values));
    Tensor grad_values = make_if(want.operand, values, {draw.r, draw.b, values.size(2)}, "gradient of the embeddings");
    Tensor grad_attention = make_if(want.attention, values, {draw.r, draw.b}, "gradient of the attention");
    if (draw.is_void()) return {torch::stable::zero_(grad_values), torch::stable::zero_(grad_attention)};
    MixJob job = mix_job(draw, values);
    job.grad = strided(grad, 3, "grad", true);
    job.grad_values = pointer_if(want.operand, grad_values);
    job.grad_attention = pointer_if(want.attention, grad_attention);
    kernels().mix(job, run_parallel);
    if (want.attention) unscale(draw, grad_attention);
    return {grad_values, grad_attention};
  }

  static std::tuple<Tensor, Tensor, Tensor> loss(const LossArguments& arguments, Reduction reduction) {
    LossCall call(arguments);
    const int64_t rows = call.draw.r * call.draw.n;
    const bool mean = reduction == kMean;
    std::vector<int64_t> shape;
    if (reduction == kNone) shape = {call.draw.r, call.draw.n};
    Tensor loss = make(arguments.operand, shape, compute_type(arguments.operand), "loss");
    if (call.draw.is_void()) {
      torch::stable::zero_(loss);
      call.zero_gradients();
      if (mean) set_scalar(loss, std::numeric_limits<double>::quiet_NaN());
      return {loss, call.grad_operand, call.grad_attention};
    }
    double total = call.run(reduction == kNone ? loss.data_ptr() : nullptr, nullptr, mean ? 1.0 / double(rows) : 1.0);
    // As in F.cross_entropy: the mean over nothing.
    if (mean && call.target.all_ignored) total = std::numeric_limits<double>::quiet_NaN();
    if (reduction != kNone) set_scalar(loss, mean ? total / double(rows) : total);
    return {loss, call.grad_operand, call.grad_attention};
  }

  static std::tuple<Tensor, Tensor> loss_backward(const Tensor& grad_rows, const LossArguments& arguments) {
    LossCall call(arguments);
    if (call.draw.is_void())
      call.zero_gradients();
    else
      call.run(nullptr, &grad_rows, 1);
    return {call.grad_operand, call.grad_attention};
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(multimix_cpu, CPU, library) { Operators<Cpu>::implement(library); }

}  // namespace multimix
