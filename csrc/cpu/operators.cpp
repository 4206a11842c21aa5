// The operators of the "cpu" backend, registered through PyTorch's stable ABI: they read tensors into plain types, make
// the outputs, and run the kernels. No Python, no ATen headers.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/elements.h"
#include "cpu/memory.h"

namespace multimix {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

DType dtype_of(ScalarType type, const char* name) {
  switch (type) {
    case ScalarType::Float: return DType::kFloat32;
    case ScalarType::Double: return DType::kFloat64;
    case ScalarType::BFloat16: return DType::kBFloat16;
    case ScalarType::Half: return DType::kFloat16;
    default: STD_TORCH_CHECK(false, name, ": expected float32, float64, bfloat16 or float16");
  }
}

// The last dimensions of a tensor of `dims` dimensions, right-aligned.
Strided strided(const Tensor& x, int64_t dims, const char* name) {
  STD_TORCH_CHECK(x.dim() == dims, name, ": expected ", dims, " dimensions, got ", x.dim());
  Strided result{x.data_ptr(), dtype_of(x.scalar_type(), name), {0, 0, 0}};
  for (int64_t k = 0; k < dims; ++k) result.strides[3 - dims + k] = x.stride(k);
  return result;
}

std::vector<double> read_doubles(const Tensor& x, int64_t rows, int64_t columns, const char* name) {
  const Strided from = strided(x, x.dim(), name);
  std::vector<double> to(rows * columns);
  for (int64_t i = 0; i < rows; ++i) baseline::read_row(from, 0, i, 0, columns, to.data() + i * columns);
  return to;
}

// The draw as the kernels take it, with the memory it points to.
struct OwnedDraw : Draw {
  std::vector<double> alphas, attentions, keeps;
  std::vector<double> scales;  // what each location's attention was divided by

  OwnedDraw(int64_t b_, int64_t r_, const std::optional<Tensor>& attention_, const std::optional<Tensor>& ignored,
            const Tensor& seed_, const std::optional<Tensor>& alpha_, int64_t n_, int64_t m_, double low_, double high_,
            int64_t row_offset_, bool wide) {
    STD_TORCH_CHECK(seed_.numel() == 1 && seed_.scalar_type() == ScalarType::Long, "seed: expected one int64");
    seed = uint64_t(*static_cast<const int64_t*>(seed_.data_ptr()));
    row_offset = uint64_t(row_offset_);
    n = n_, m = m_, b = b_, r = r_, low = low_, high = high_;
    STD_TORCH_CHECK(n >= 1 && m >= 1 && m <= b && r >= 1, "n, m: expected n >= 1 and 1 <= m <= b");
    double least = low, greatest = high;
    if (alpha_) {
      STD_TORCH_CHECK(alpha_->dim() == 1 && alpha_->size(0) == b, "alpha: expected shape (b,)");
      alphas = read_doubles(*alpha_, 1, b, "alpha");
      least = greatest = alphas[0];
      for (const double a : alphas) least = std::min(least, a), greatest = std::max(greatest, a);
    }
    STD_TORCH_CHECK(least >= 0.01 && greatest <= 1000, "alpha: expected values within [0.01, 1000]");
    alpha = alpha_ ? alphas.data() : nullptr;
    // Below, U^(1/alpha) underflows float, and multiplies its rounding errors by 1/alpha.
    exact = wide || least < 0.3;
    candidates = b;
    if (ignored) read_ignored(*ignored);
    keep = keeps.empty() ? nullptr : keeps.data();
    if (attention_) read_attention(*attention_);
    attention = attention_ ? attentions.data() : nullptr;
  }
  OwnedDraw(const OwnedDraw&) = delete;

  // True if every example is ignored: there is nothing to draw.
  bool is_void() const { return candidates == 0; }

 private:
  void read_ignored(const Tensor& ignored) {
    STD_TORCH_CHECK(ignored.dim() == 1 && ignored.size(0) == b && ignored.scalar_type() == ScalarType::Bool,
                    "ignored: expected bool of shape (b,)");
    const bool* flags = static_cast<const bool*>(ignored.data_ptr());
    for (int64_t i = 0; i < b; ++i) candidates -= flags[i * ignored.stride(0)];
    if (candidates == b) return;
    keeps.resize(b);
    for (int64_t i = 0; i < b; ++i) keeps[i] = !flags[i * ignored.stride(0)];
  }

  void read_attention(const Tensor& tensor) {
    STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == r && tensor.size(1) == b, "attention: expected (r, b)");
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
  std::vector<double> probability_values;
  bool all_ignored = false;

  OwnedTarget(const Tensor& tensor, int64_t b, int64_t c_, double smoothing_, int64_t ignore_index_) {
    c = c_, ignore_index = ignore_index_, smoothing = smoothing_, labels = nullptr, probabilities = nullptr;
    if (tensor.dim() == 2) {
      STD_TORCH_CHECK(tensor.size(0) == b && tensor.size(1) == c, "target: expected probabilities (b, c)");
      probability_values = read_doubles(tensor, b, c, "target");
      probabilities = probability_values.data();
      return;
    }
    STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == b && tensor.scalar_type() == ScalarType::Long,
                    "target: expected class indices (b,) of type int64");
    const int64_t* values = static_cast<const int64_t*>(tensor.data_ptr());
    all_ignored = true;
    for (int64_t i = 0; i < b; ++i) {
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

void run_parallel(int64_t count, void (*body)(int64_t, int64_t, void*), void* context) {
  torch::stable::parallel_for(0, count, 1, [=](int64_t begin, int64_t end) { body(begin, end, context); });
}

ScalarType compute_type(const Tensor& x) {
  return x.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

Tensor make(const Tensor& like, std::vector<int64_t> shape, ScalarType type) {
  Tensor x = torch::stable::new_empty(like, shape, type);
  const size_t size = type == ScalarType::Double ? 8 : type == ScalarType::Float ? 4 : 2;
  baseline::advise_huge_pages(x.data_ptr(), size_t(x.numel()) * size);
  return x;
}

// An output that is empty if it is not wanted.
Tensor make_if(bool wanted, const Tensor& like, std::vector<int64_t> shape) {
  return make(like, wanted ? std::move(shape) : std::vector<int64_t>{0}, compute_type(like));
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

#define MULTIMIX_DRAW_PARAMETERS                                                                                       \
  std::optional<Tensor> attention, std::optional<Tensor> ignored, Tensor seed, std::optional<Tensor> alpha, int64_t n, \
      int64_t m, double low, double high, int64_t row_offset
#define MULTIMIX_DRAW attention, ignored, seed, alpha, n, m, low, high, row_offset

Tensor sample(int64_t b, int64_t r, ScalarType dtype, MULTIMIX_DRAW_PARAMETERS) {
  const DType type = dtype_of(dtype, "dtype");
  const OwnedDraw draw(b, r, MULTIMIX_DRAW, type == DType::kFloat64);
  Tensor weights = make(seed, {r, n, b}, dtype);
  if (draw.is_void()) return torch::stable::zero_(weights);
  kernels().sample({draw, type, weights.data_ptr()}, run_parallel);
  return weights;
}

Tensor mix(Tensor values, MULTIMIX_DRAW_PARAMETERS) {
  const int64_t r = values.size(0), b = values.size(1), d = values.size(2);
  const bool wide = values.scalar_type() == ScalarType::Double;
  const OwnedDraw draw(b, r, MULTIMIX_DRAW, wide);
  Tensor mixed = make(values, {r, n, d}, values.scalar_type());
  if (draw.is_void()) return torch::stable::zero_(mixed);
  kernels().mix({draw, wide, strided(values, 3, "values"), d, {}, mixed.data_ptr(), nullptr, nullptr}, run_parallel);
  return mixed;
}

std::tuple<Tensor, Tensor> mix_backward(Tensor grad, Tensor values, bool want_values, bool want_attention,
                                        MULTIMIX_DRAW_PARAMETERS) {
  const int64_t r = values.size(0), b = values.size(1), d = values.size(2);
  const bool wide = values.scalar_type() == ScalarType::Double;
  const OwnedDraw draw(b, r, MULTIMIX_DRAW, wide);
  STD_TORCH_CHECK(grad.size(0) == r && grad.size(1) == n && grad.size(2) == d, "grad: expected shape (r, n, d)");
  Tensor grad_values = make_if(want_values, values, {r, b, d});
  Tensor grad_attention = make_if(want_attention, values, {r, b});
  if (draw.is_void()) return {torch::stable::zero_(grad_values), torch::stable::zero_(grad_attention)};
  kernels().mix({draw, wide, strided(values, 3, "values"), d, strided(grad, 3, "grad"), nullptr,
                 pointer_if(want_values, grad_values), pointer_if(want_attention, grad_attention)},
                run_parallel);
  if (want_attention) unscale(draw, grad_attention);
  return {grad_values, grad_attention};
}

// Both losses in both directions: the operand is scores (r, b, c) if they are to be mixed, otherwise logits (r, n, c).
struct LossCall {
  bool mix_scores, want_operand, want_attention;
  Tensor operand;
  OwnedDraw draw;
  OwnedTarget target;
  Tensor grad_operand, grad_attention;

  LossCall(bool mix_scores, Tensor operand_, const Tensor& target_, double smoothing, int64_t ignore_index,
           bool want_operand, bool want_attention, MULTIMIX_DRAW_PARAMETERS)
      : mix_scores(mix_scores),
        want_operand(want_operand),
        want_attention(want_attention),
        operand(std::move(operand_)),
        draw(target_.size(0), operand.size(0), MULTIMIX_DRAW, operand.scalar_type() == ScalarType::Double),
        target(target_, draw.b, operand.size(2), smoothing, ignore_index),
        grad_operand(make_if(want_operand, operand, {draw.r, operand.size(1), operand.size(2)})),
        grad_attention(make_if(want_attention, operand, {draw.r, draw.b})) {
    STD_TORCH_CHECK(operand.size(1) == (mix_scores ? draw.b : n), "operand: expected shape (r, ",
                    mix_scores ? "b" : "n", ", c)");
    STD_TORCH_CHECK(!want_attention || attention, "attention: its gradient is wanted, but there is none");
  }

  // Fills rows (r, n) and the gradients; returns the sum of the rows.
  double run(void* rows, const Tensor* grad_rows, double grad_row) {
    double total = 0;
    const bool wide = operand.scalar_type() == ScalarType::Double;
    LossJob job{draw,
                target,
                wide,
                mix_scores,
                strided(operand, 3, "operand"),
                {},
                grad_row,
                rows,
                &total,
                pointer_if(want_operand, grad_operand),
                pointer_if(want_attention, grad_attention)};
    if (grad_rows) job.grad_rows = strided(*grad_rows, 2, "grad_rows");
    kernels().cross_entropy(job, run_parallel);
    if (want_attention) unscale(draw, grad_attention);
    return total;
  }

  void zero_gradients() {
    torch::stable::zero_(grad_operand);
    torch::stable::zero_(grad_attention);
  }
};

std::tuple<Tensor, Tensor, Tensor> forward(LossCall&& call, int64_t reduction) {
  const int64_t rows = call.draw.r * call.draw.n;
  const bool mean = reduction == kMean;
  std::vector<int64_t> shape;
  if (reduction == kNone) shape = {call.draw.r, call.draw.n};
  Tensor loss = make(call.operand, shape, compute_type(call.operand));
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

std::tuple<Tensor, Tensor> backward(LossCall&& call, const Tensor& grad_rows) {
  STD_TORCH_CHECK(grad_rows.dim() == 2 && grad_rows.size(0) == call.draw.r && grad_rows.size(1) == call.draw.n,
                  "grad_rows: expected shape (r, n)");
  if (call.draw.is_void())
    call.zero_gradients();
  else
    call.run(nullptr, &grad_rows, 0);
  return {call.grad_operand, call.grad_attention};
}

template <bool mix_scores>
std::tuple<Tensor, Tensor, Tensor> cross_entropy(Tensor operand, Tensor target, double smoothing, int64_t ignore_index,
                                                 int64_t reduction, bool want_operand, bool want_attention,
                                                 MULTIMIX_DRAW_PARAMETERS) {
  return forward({mix_scores, operand, target, smoothing, ignore_index, want_operand, want_attention, MULTIMIX_DRAW},
                 reduction);
}

template <bool mix_scores>
std::tuple<Tensor, Tensor> cross_entropy_backward(Tensor grad_rows, Tensor operand, Tensor target, double smoothing,
                                                  int64_t ignore_index, bool want_operand, bool want_attention,
                                                  MULTIMIX_DRAW_PARAMETERS) {
  return backward({mix_scores, operand, target, smoothing, ignore_index, want_operand, want_attention, MULTIMIX_DRAW},
                  grad_rows);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(multimix_cpu, CPU, library) {
  library.impl("sample", TORCH_BOX(&sample));
  library.impl("mix", TORCH_BOX(&mix));
  library.impl("mix_backward", TORCH_BOX(&mix_backward));
  library.impl("mixed_cross_entropy", TORCH_BOX(&cross_entropy<true>));
  library.impl("mixed_cross_entropy_backward", TORCH_BOX(&cross_entropy_backward<true>));
  library.impl("soft_cross_entropy", TORCH_BOX(&cross_entropy<false>));
  library.impl("soft_cross_entropy_backward", TORCH_BOX(&cross_entropy_backward<false>));
}

}  // namespace multimix
