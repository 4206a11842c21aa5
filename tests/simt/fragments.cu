// Single instructions and single products on the caller's numbers, for comparison with formulas in Python.
#include <string>

#include "cuda/host/launch.h"
#include "cuda/products/fragments.h"

namespace {

using namespace multimix;

std::string message;

template <class... P, class... A>
const char* start(void (*kernel)(P...), size_t shared, A... arguments) {
  message.clear();
  try {
    launch({}, "fragments", kernel, Grid{1}, kWarp, shared, arguments...);
  } catch (const std::exception& fault) {
    message = fault.what();
  }
  simt::forget_all();
  return message.c_str();
}

template <class T>
__global__ void multiply_16(const uint32_t* a, const uint32_t* b, float* d) {
  const int lane = threadIdx.x;
  uint32_t x[4], y[2];
  float sum[4];
  for (int i = 0; i < 4; ++i) x[i] = a[lane * 4 + i], sum[i] = d[lane * 4 + i];
  for (int i = 0; i < 2; ++i) y[i] = b[lane * 2 + i];
  mma_16x8x16<T>(sum, x, y);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sum[i];
}

__global__ void multiply_8(const float* a, const float* b, float* d) {
  const int lane = threadIdx.x;
  float x[4], y[2], sum[4];
  for (int i = 0; i < 4; ++i) x[i] = a[lane * 4 + i], sum[i] = d[lane * 4 + i];
  for (int i = 0; i < 2; ++i) y[i] = b[lane * 2 + i];
  mma_16x8x8(sum, x, y);
  for (int i = 0; i < 4; ++i) d[lane * 4 + i] = sum[i];
}

__global__ void load(bool transposed, const uint16_t* rows, uint32_t* r) {
  uint16_t* tile = reinterpret_cast<uint16_t*>(shared_memory());
  for (int i = 0; i < 8; ++i) tile[threadIdx.x * 8 + i] = rows[threadIdx.x * 8 + i];
  __syncwarp();
  uint32_t own[4];
  if (transposed)
    load_matrices_transposed(own, tile + threadIdx.x * 8);
  else
    load_matrices(own, tile + threadIdx.x * 8);
  for (int i = 0; i < 4; ++i) r[threadIdx.x * 4 + i] = own[i];
}

// Tiles with kPad elements behind each row, a (16, 16) and b (16, 16), stored as they are or transposed.
template <Operand operand>
__global__ void multiply(bool a_transposed, bool b_transposed, bool twice, const float* a, const float* b, float* d) {
  using P = Product<operand>;
  using T = typename P::T;
  constexpr int kPitch = 16 + P::kPad;
  T* left = reinterpret_cast<T*>(shared_memory());
  T* right = left + 16 * kPitch;
  for (int i = threadIdx.x; i < 256; i += kWarp) {
    const int row = i / 16, column = i % 16;
    left[a_transposed ? column * kPitch + row : row * kPitch + column] = round_operand<operand>(a[i]);
    right[b_transposed ? row * kPitch + column : column * kPitch + row] = round_operand<operand>(b[i]);
  }
  __syncthreads();
  typename P::A x;
  typename P::B y[2];
  if (a_transposed)
    P::load_a_transposed(x, left, kPitch);
  else
    P::load_a(x, left, kPitch);
  if (b_transposed)
    P::load_b_transposed(y, right, kPitch);
  else
    P::load_b(y, right, kPitch);
  float sums[2][4] = {};
  for (int n = 0; n < 2; ++n) P::add(sums[n], x, y[n]);
  if (twice) {  // (a b) b
    P::from_accumulators(x, sums[0], sums[1]);
    for (int n = 0; n < 2; ++n) {
      for (int i = 0; i < 4; ++i) sums[n][i] = 0;
      P::add(sums[n], x, y[n]);
    }
  }
  for (int n = 0; n < 2; ++n)
    for (int i = 0; i < 4; ++i) d[(lane_row() + i / 2 * 8) * 16 + n * 8 + lane_column() + i % 2] = sums[n][i];
}

}  // namespace

extern "C" const char* run_mma_16(bool bf16, const uint32_t* a, const uint32_t* b, float* d) {
  simt::allow(a, 32 * 16, false, "a"), simt::allow(b, 32 * 8, false, "b"), simt::allow(d, 32 * 16, true, "d");
  return start(bf16 ? multiply_16<BF16> : multiply_16<F16>, 0, a, b, d);
}
extern "C" const char* run_mma_8(const float* a, const float* b, float* d) {
  simt::allow(a, 32 * 16, false, "a"), simt::allow(b, 32 * 8, false, "b"), simt::allow(d, 32 * 16, true, "d");
  return start(multiply_8, 0, a, b, d);
}
extern "C" const char* run_load(bool transposed, const uint16_t* rows, uint32_t* r) {
  simt::allow(rows, 512, false, "rows"), simt::allow(r, 512, true, "r");
  return start(load, 512, transposed, rows, r);
}
extern "C" const char* run_product(int operand, bool a_transposed, bool b_transposed, bool twice, const float* a,
                                   const float* b, float* d) {
  simt::allow(a, 1024, false, "a"), simt::allow(b, 1024, false, "b"), simt::allow(d, 1024, true, "d");
  simt::poison(d, 1024);
  constexpr size_t kShared = 2 * 16 * 24 * sizeof(float);
  void (*const kernels[])(bool, bool, bool, const float*, const float*, float*) = {
      multiply<Operand::kBF16>, multiply<Operand::kF16>, multiply<Operand::kTF32>, multiply<Operand::kFP32>};
  return start(kernels[operand], kShared, a_transposed, b_transposed, twice, a, b, d);
}

// pack<BF16>, pack<F16>, round_tf32 and the way back, of n floats.
extern "C" void convert(int n, const float* x, uint16_t* bf16, uint16_t* f16, float* tf32, float* from_f16) {
  for (int i = 0; i < n; ++i) {
    bf16[i] = from_float<BF16>(x[i]).bits;
    f16[i] = from_float<F16>(x[i]).bits;
    tf32[i] = round_tf32(x[i]);
    from_f16[i] = to_float(F16{f16[i]});
  }
}

extern "C" void approximate(int n, const float* x, float* exp2, float* log2, float* sqrt) {
  for (int i = 0; i < n; ++i) exp2[i] = fast_exp2(x[i]), log2[i] = fast_log2(x[i]), sqrt[i] = fast_sqrt(x[i]);
}

namespace {

__global__ void shuffle_kernel(int kind, int argument, int width, const double* x, double* y) {
  const int lane = threadIdx.x;
  if (kind == 0) y[lane] = __shfl_sync(kAllLanes, x[lane], argument, width);
  if (kind == 1) y[lane] = __shfl_up_sync(kAllLanes, x[lane], argument, width);
  if (kind == 2) y[lane] = __shfl_down_sync(kAllLanes, x[lane], argument, width);
  if (kind == 3) y[lane] = __shfl_xor_sync(kAllLanes, x[lane], argument, width);
}

__global__ void votes_kernel(uint32_t bits, int* y) {
  const bool own = bits >> threadIdx.x % 32 & 1;
  int* r = y + threadIdx.x * 6;
  r[0] = int(__ballot_sync(kAllLanes, own)), r[1] = __any_sync(kAllLanes, own), r[2] = __all_sync(kAllLanes, own);
  r[3] = __syncthreads_count(own), r[4] = __syncthreads_or(own), r[5] = __syncthreads_and(own);
}

}  // namespace

extern "C" const char* run_shuffle(int kind, int argument, int width, const double* x, double* y) {
  simt::allow(x, 256, false, "x"), simt::allow(y, 256, true, "y");
  return start(shuffle_kernel, 0, kind, argument, width, x, y);
}
extern "C" const char* run_votes(uint32_t bits, int* y) {
  simt::allow(y, 32 * 24, true, "y");
  return start(votes_kernel, 0, bits, y);
}
