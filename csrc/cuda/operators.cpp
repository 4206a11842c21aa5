// The operators of the "cuda" backend, registered through PyTorch's stable ABI: they read tensors into plain types,
// make the outputs, and call the launchers. No Python, no ATen headers, no wait for the device.
#include <array>

#include "abi.h"
#include "cuda/host/call.h"
#include "cuda/launchers.h"
#include "cuda/products/pack.h"

namespace multimix {
namespace {

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

Draw draw_of(Call& call, int64_t b, int64_t r, const DrawArguments& from) {
  Draw draw{};
  draw.seed = call.contiguous<int64_t>(from.seed, ScalarType::Long, "seed");
  draw.n = from.n, draw.row_offset = from.row_offset;
  draw.b = small(b, "b"), draw.r = small(r, "r"), draw.m = int(from.m);
  draw.low = from.low, draw.high = from.high;
  if (from.alpha)
    draw.alpha = call.contiguous<double>(*from.alpha, ScalarType::Double, "alpha");
  else
    check_alpha(from.low, from.high);
  if (from.ignored) draw.ignored = call.contiguous<bool>(*from.ignored, ScalarType::Bool, "ignored");
  if (from.attention) draw.attention = call.contiguous<float>(*from.attention, ScalarType::Float, "attention");
  // Values on the device cannot be looked at without waiting for it: they get the widest arithmetic.
  const bool narrow = !from.alpha && from.low >= kAccurateFrom;
  const bool accurate = from.low < kHardwareFrom || from.high > kHardwareTo;
  draw.arithmetic = !narrow ? Arithmetic::kLogSpace : accurate ? Arithmetic::kAccurate : Arithmetic::kHardware;
  return draw;
}

Target target_of(Call& call, const LossArguments& from) {
  Target target{};
  target.c = small(from.c(), "c"), target.ignore_index = from.ignore_index;
  target.keep = float(1 - from.smoothing), target.uniform = float(from.smoothing / double(from.c()));
  target.smoothing = float(from.smoothing);
  if (from.target.dim() == 2)
    target.probabilities = call.strided(from.target, 2, "target");
  else
    target.labels = call.contiguous<int64_t>(from.target, ScalarType::Long, "target");
  return target;
}

template <class T>
T* pointer_if(bool wanted, const Tensor& x) {
  return wanted ? static_cast<T*>(x.data_ptr()) : nullptr;
}

// Both losses in both directions.
struct LossCall {
  Call call;
  bool mix_scores;
  LossJob job;
  Tensor grad_operand, grad_attention;

  explicit LossCall(const LossArguments& from) : call(from.operand), mix_scores(from.mix_scores), job{} {
    job.values = call.strided(from.operand, 3, "operand");
    job.operand = operand_of(job.values.dtype);
    job.draw = draw_of(call, from.b(), from.r(), from.draw);
    job.target = target_of(call, from);
    grad_operand = call.output_if(from.want.operand, {from.r(), from.operand.size(1), from.c()});
    grad_attention = call.output_if(from.want.attention, {from.r(), from.b()});
    job.grad_values = pointer_if<float>(from.want.operand, grad_operand);
    job.grad_attention = pointer_if<float>(from.want.attention, grad_attention);
  }

  void run() {
    if (!mix_scores)
      soft(call.context, job);
    else if (fits_on_chip(call.context, job))
      mixed_small(call.context, job);
    else
      mixed_large(call.context, job);
  }
};

MixJob mix_job(Call& call, const Tensor& values, const DrawArguments& draw) {
  MixJob job{};
  job.values = call.strided(values, 3, "values");
  job.operand = operand_of(job.values.dtype);
  job.draw = draw_of(call, values.size(1), values.size(0), draw);
  job.d = small(values.size(2), "d");
  return job;
}

struct Cuda {
  static Tensor sample(int64_t b, int64_t r, ScalarType dtype, const DrawArguments& arguments) {
    Call call(arguments.seed);
    const DType type = dtype_of(dtype, "dtype", false);
    const Draw draw = draw_of(call, b, r, arguments);
    Tensor weights = call.output({r, arguments.n, b}, dtype);
    multimix::sample(call.context, draw, type, weights.data_ptr());
    return weights;
  }

  static Tensor mix(const Tensor& values, const DrawArguments& draw) {
    Call call(values);
    MixJob job = mix_job(call, values, draw);
    Tensor mixed = call.output({values.size(0), draw.n, values.size(2)}, values.scalar_type());
    job.mixed = mixed.data_ptr();
    multimix::mix(call.context, job);
    return mixed;
  }

  static std::tuple<Tensor, Tensor> mix_backward(const Tensor& grad, const Tensor& values, Want want,
                                                 const DrawArguments& draw) {
    Call call(values);
    MixJob job = mix_job(call, values, draw);
    job.grad = call.strided(grad, 3, "grad");
    Tensor grad_values = call.output_if(want.operand, {values.size(0), values.size(1), values.size(2)});
    Tensor grad_attention = call.output_if(want.attention, {values.size(0), values.size(1)});
    job.grad_values = pointer_if<float>(want.operand, grad_values);
    job.grad_attention = pointer_if<float>(want.attention, grad_attention);
    if (want.operand || want.attention) multimix::mix_backward(call.context, job);
    return {grad_values, grad_attention};
  }

  static std::tuple<Tensor, Tensor, Tensor> loss(const LossArguments& from, Reduction reduction) {
    LossCall loss_call(from);
    LossJob& job = loss_call.job;
    const double scale = reduction == kMean ? 1.0 / (double(from.r()) * double(from.draw.n)) : 1.0;
    job.scale.host = float(scale);
    Tensor loss = loss_call.call.output(
        reduction == kNone ? std::vector<int64_t>{from.r(), from.draw.n} : std::vector<int64_t>{}, ScalarType::Float);
    float* values = static_cast<float*>(loss.data_ptr());
    if (reduction == kNone)
      job.rows = values;
    else
      job.loss = {values, scale, reduction == kMean};
    loss_call.run();
    return {loss, loss_call.grad_operand, loss_call.grad_attention};
  }

  static std::tuple<Tensor, Tensor> loss_backward(const Tensor& grad_rows, const LossArguments& from) {
    LossCall loss_call(from);
    Call& call = loss_call.call;
    // Products read the factors of the rows relative to their largest: 16-bit operands have a small range.
    const Relative factors = relative(call.context, call.strided(grad_rows, 2, "grad_rows"), from.r(), from.draw.n);
    loss_call.job.grad_rows = factors.values;
    loss_call.job.scale.device = factors.largest;
    if (from.want.operand || from.want.attention) loss_call.run();
    return {loss_call.grad_operand, loss_call.grad_attention};
  }
};

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(multimix_cuda, CUDA, library) { Operators<Cuda>::implement(library); }

}  // namespace multimix
