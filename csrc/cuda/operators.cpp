// The operators of the "cuda" backend, registered through PyTorch's stable ABI: they read tensors into plain types,
// make the outputs, and call the launchers. No Python, no ATen headers, no wait for the device.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <tuple>

#include "cuda/host/call.h"
#include "cuda/launchers.h"
#include "cuda/products/pack.h"

namespace multimix {
namespace {

enum Reduction : int64_t { kNone = 0, kMean = 1, kSum = 2 };

// What PyTorch's matmul precision says of float32. The stable ABI cannot ask, so Python registers an operator that
// does.
bool tf32_allowed() {
  std::array<StableIValue, 1> stack{};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("multimix_cuda::tf32_allowed", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<bool>(stack[0]);
}

Operand operand_of(DType type) {
  switch (type) {
    case DType::kBFloat16: return Operand::kBF16;
    case DType::kFloat16: return Operand::kF16;
    default: return tf32_allowed() ? Operand::kTF32 : Operand::kFP32;
  }
}

int small(int64_t x, const char* name) {
  STD_TORCH_CHECK(x >= 1 && x < (int64_t(1) << 30), name, ": expected a size of at least 1 and below 2**30, got ", x);
  return int(x);
}

#define MULTIMIX_DRAW_PARAMETERS                                                                                       \
  std::optional<Tensor> attention, std::optional<Tensor> ignored, Tensor seed, std::optional<Tensor> alpha, int64_t n, \
      int64_t m, double low, double high, int64_t row_offset
#define MULTIMIX_DRAW attention, ignored, seed, alpha, n, m, low, high, row_offset

Draw draw_of(Call& call, int64_t b, int64_t r, MULTIMIX_DRAW_PARAMETERS) {
  STD_TORCH_CHECK(seed.numel() == 1 && seed.scalar_type() == ScalarType::Long, "seed: expected one int64");
  STD_TORCH_CHECK(n >= 1 && m >= 1 && m <= b, "n, m: expected n >= 1 and 1 <= m <= b");
  Draw draw{};
  draw.seed = call.contiguous<int64_t>(seed, ScalarType::Long, "seed");
  draw.n = n, draw.row_offset = row_offset;
  draw.b = small(b, "b"), draw.r = small(r, "r"), draw.m = int(m);
  draw.low = low, draw.high = high;
  if (alpha) {
    STD_TORCH_CHECK(alpha->dim() == 1 && alpha->size(0) == b, "alpha: expected shape (b,)");
    draw.alpha = call.contiguous<double>(*alpha, ScalarType::Double, "alpha");
  } else {
    STD_TORCH_CHECK(low >= 0.01 && high <= 1000, "alpha: expected values within [0.01, 1000]");
  }
  if (ignored) {
    STD_TORCH_CHECK(ignored->dim() == 1 && ignored->size(0) == b && ignored->scalar_type() == ScalarType::Bool,
                    "ignored: expected bool of shape (b,)");
    draw.ignored = call.contiguous<bool>(*ignored, ScalarType::Bool, "ignored");
  }
  if (attention) {
    STD_TORCH_CHECK(attention->dim() == 2 && attention->size(0) == r && attention->size(1) == b,
                    "attention: expected (r, b)");
    draw.attention = call.contiguous<float>(*attention, ScalarType::Float, "attention");
  }
  // Values on the device cannot be looked at without waiting for it: they get the widest arithmetic.
  const bool narrow = !alpha && low >= 0.3;
  const bool accurate = low < 0.4 || high > 4;  // beyond, the hardware's logarithm is not enough
  draw.arithmetic = !narrow ? Arithmetic::kLogSpace : accurate ? Arithmetic::kAccurate : Arithmetic::kHardware;
  return draw;
}

Target target_of(Call& call, const Tensor& tensor, int64_t b, int64_t c, double smoothing, int64_t ignore_index) {
  Target target{};
  target.c = small(c, "c"), target.ignore_index = ignore_index;
  target.keep = float(1 - smoothing), target.uniform = float(smoothing / double(c));
  if (tensor.dim() == 2) {
    STD_TORCH_CHECK(tensor.size(0) == b && tensor.size(1) == c, "target: expected probabilities (b, c)");
    target.probabilities = call.strided(tensor, 2, "target");
  } else {
    STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == b && tensor.scalar_type() == ScalarType::Long,
                    "target: expected class indices (b,) of type int64");
    target.labels = call.contiguous<int64_t>(tensor, ScalarType::Long, "target");
  }
  target.mass =
      target_mass(call.context, target.labels, target.probabilities, int(b), target.c, ignore_index, float(smoothing));
  return target;
}

template <class T>
T* pointer_if(bool wanted, const Tensor& x) {
  return wanted ? static_cast<T*>(x.data_ptr()) : nullptr;
}

Tensor sample_operator(int64_t b, int64_t r, ScalarType dtype, MULTIMIX_DRAW_PARAMETERS) {
  Call call(seed);
  const DType type = dtype_of(dtype, "dtype");
  const Draw draw = draw_of(call, b, r, MULTIMIX_DRAW);
  Tensor weights = call.output({r, n, b}, dtype);
  sample(call.context, draw, type, weights.data_ptr());
  return weights;
}

MixJob mix_job(Call& call, const Tensor& values, MULTIMIX_DRAW_PARAMETERS) {
  MixJob job{};
  job.values = call.strided(values, 3, "values");
  job.operand = operand_of(job.values.dtype);
  job.draw = draw_of(call, values.size(1), values.size(0), MULTIMIX_DRAW);
  job.d = small(values.size(2), "d");
  return job;
}

Tensor mix_operator(Tensor values, MULTIMIX_DRAW_PARAMETERS) {
  Call call(values);
  MixJob job = mix_job(call, values, MULTIMIX_DRAW);
  Tensor mixed = call.output({values.size(0), n, values.size(2)}, values.scalar_type());
  job.mixed = mixed.data_ptr();
  mix(call.context, job);
  return mixed;
}

std::tuple<Tensor, Tensor> mix_backward_operator(Tensor grad, Tensor values, bool want_values, bool want_attention,
                                                 MULTIMIX_DRAW_PARAMETERS) {
  Call call(values);
  const int64_t r = values.size(0), b = values.size(1), d = values.size(2);
  MixJob job = mix_job(call, values, MULTIMIX_DRAW);
  job.grad = call.strided(grad, 3, "grad");
  STD_TORCH_CHECK(grad.size(0) == r && grad.size(1) == n && grad.size(2) == d, "grad: expected shape (r, n, d)");
  STD_TORCH_CHECK(!want_attention || attention, "attention: its gradient is wanted, but there is none");
  Tensor grad_values = call.output_if(want_values, {r, b, d});
  Tensor grad_attention = call.output_if(want_attention, {r, b});
  job.grad_values = pointer_if<float>(want_values, grad_values);
  job.grad_attention = pointer_if<float>(want_attention, grad_attention);
  if (want_values || want_attention) mix_backward(call.context, job);
  return {grad_values, grad_attention};
}

#ifdef MULTIMIX_SIMT
bool always_large = false;  // tests visit the kernels for many classes at small sizes
#else
constexpr bool always_large = false;
#endif

// Both losses in both directions: the operand is scores (r, b, c) if they are to be mixed, otherwise logits (r, n, c).
struct LossCall {
  Call call;
  bool mix_scores;
  int64_t r, b;
  LossJob job;
  Tensor grad_operand, grad_attention;

  LossCall(bool mix_scores, const Tensor& operand, const Tensor& tensor, double smoothing, int64_t ignore_index,
           bool want_operand, bool want_attention, MULTIMIX_DRAW_PARAMETERS)
      : call(operand), mix_scores(mix_scores), r(operand.size(0)), b(tensor.size(0)), job{} {
    job.values = call.strided(operand, 3, "operand");
    job.operand = operand_of(job.values.dtype);
    job.draw = draw_of(call, b, r, MULTIMIX_DRAW);
    job.target = target_of(call, tensor, b, operand.size(2), smoothing, ignore_index);
    STD_TORCH_CHECK(operand.size(1) == (mix_scores ? b : n), "operand: expected shape (r, ", mix_scores ? "b" : "n",
                    ", c)");
    STD_TORCH_CHECK(!want_attention || attention, "attention: its gradient is wanted, but there is none");
    grad_operand = call.output_if(want_operand, {r, operand.size(1), operand.size(2)});
    grad_attention = call.output_if(want_attention, {r, b});
    job.grad_values = pointer_if<float>(want_operand, grad_operand);
    job.grad_attention = pointer_if<float>(want_attention, grad_attention);
  }

  void run() {
    if (!mix_scores)
      soft(call.context, job);
    else if (!always_large && fits_on_chip(call.context, job))
      mixed_small(call.context, job);
    else
      mixed_large(call.context, job);
  }
};

template <bool mix_scores>
std::tuple<Tensor, Tensor, Tensor> cross_entropy(Tensor operand, Tensor target, double smoothing, int64_t ignore_index,
                                                 int64_t reduction, bool want_operand, bool want_attention,
                                                 MULTIMIX_DRAW_PARAMETERS) {
  LossCall loss_call(mix_scores, operand, target, smoothing, ignore_index, want_operand, want_attention, MULTIMIX_DRAW);
  Call& call = loss_call.call;
  LossJob& job = loss_call.job;
  const double scale = reduction == kMean ? 1.0 / (double(loss_call.r) * double(n)) : 1.0;
  job.scale.host = float(scale);
  Tensor loss = call.output(reduction == kNone ? std::vector<int64_t>{loss_call.r, n} : std::vector<int64_t>{},
                            ScalarType::Float);
  float* values = static_cast<float*>(loss.data_ptr());
  if (reduction == kNone)
    job.rows = values;
  else
    job.total = call.context.make<double>(1);
  loss_call.run();
  if (reduction != kNone)
    finish_loss(call.context, job.total, scale, reduction == kMean, job.target.labels, job.draw.ignored, job.draw.b,
                ignore_index, values);
  return {loss, loss_call.grad_operand, loss_call.grad_attention};
}

template <bool mix_scores>
std::tuple<Tensor, Tensor> cross_entropy_backward(Tensor grad_rows, Tensor operand, Tensor target, double smoothing,
                                                  int64_t ignore_index, bool want_operand, bool want_attention,
                                                  MULTIMIX_DRAW_PARAMETERS) {
  LossCall loss_call(mix_scores, operand, target, smoothing, ignore_index, want_operand, want_attention, MULTIMIX_DRAW);
  Call& call = loss_call.call;
  STD_TORCH_CHECK(grad_rows.dim() == 2 && grad_rows.size(0) == loss_call.r && grad_rows.size(1) == n,
                  "grad_rows: expected shape (r, n)");
  // Products read the factors of the rows relative to their largest: 16-bit operands have a small range.
  const Relative factors = relative(call.context, call.strided(grad_rows, 2, "grad_rows"), loss_call.r, n);
  loss_call.job.grad_rows = factors.values;
  loss_call.job.scale.device = factors.largest;
  if (want_operand || want_attention) loss_call.run();
  return {loss_call.grad_operand, loss_call.grad_attention};
}

}  // namespace

#ifdef MULTIMIX_SIMT
extern "C" __attribute__((visibility("default"))) void multimix_always_large(bool always) { always_large = always; }
#define MULTIMIX_DISPATCH_KEY CPU
#else
#define MULTIMIX_DISPATCH_KEY CUDA
#endif

STABLE_TORCH_LIBRARY_IMPL(multimix_cuda, MULTIMIX_DISPATCH_KEY, library) {
  library.impl("sample", TORCH_BOX(&sample_operator));
  library.impl("mix", TORCH_BOX(&mix_operator));
  library.impl("mix_backward", TORCH_BOX(&mix_backward_operator));
  library.impl("mixed_cross_entropy", TORCH_BOX(&cross_entropy<true>));
  library.impl("mixed_cross_entropy_backward", TORCH_BOX(&cross_entropy_backward<true>));
  library.impl("soft_cross_entropy", TORCH_BOX(&cross_entropy<false>));
  library.impl("soft_cross_entropy_backward", TORCH_BOX(&cross_entropy_backward<false>));
}

}  // namespace multimix
