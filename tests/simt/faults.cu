// Accesses outside buffers and of bytes that nobody wrote, crooked addresses, barriers and warps that do not meet; and
// what runs these kernels and those of races.cu.
#include <cstring>
#include <stdexcept>

#include "faults.h"

float host_table[] = {1, 2, 3};  // of the host

namespace faults {
namespace {

template <bool right>
__global__ void reads_past_the_end(Buffers at) {
  at.output[threadIdx.x] = at.input[threadIdx.x * (right ? 2 : 3)];
}

template <bool right>
__global__ void writes_before_the_start(Buffers at) {
  at.output[int(threadIdx.x) - (right ? 0 : 1)] = 1;
}

template <bool right>
__global__ void writes_read_only(Buffers at) {
  (right ? at.output : const_cast<float*>(at.input))[threadIdx.x] = 1;
}

template <bool right>
__global__ void reads_past_shared(Buffers at) {
  tile()[threadIdx.x] = tile()[threadIdx.x + 128] = 0;
  __syncthreads();
  at.output[threadIdx.x] = tile()[threadIdx.x * 2 + (right ? 0 : 8)];
}

template <bool right>
__global__ void writes_past_shared(Buffers) {
  tile()[threadIdx.x * 2 + (right ? 1 : 2)] = 1;
}

template <bool right>
__global__ void reads_unwritten_shared(Buffers at) {
  if (right || threadIdx.x != 77) tile()[threadIdx.x] = 1;
  __syncthreads();
  at.output[threadIdx.x] = tile()[threadIdx.x];
}

template <bool right>
__global__ void reads_unwritten_global(Buffers at) {
  if (right) at.output[threadIdx.x] = 1;
  at.output[threadIdx.x] += 1;
}

// What a block wrote to shared memory is gone for the next.
template <bool right>
__global__ void reads_shared_of_another_block(Buffers at) {
  if (right || blockIdx.x == 0) tile()[threadIdx.x] = 1;
  at.output[blockIdx.x * 128 + threadIdx.x] = tile()[threadIdx.x];
}

template <bool right>
__global__ void barrier_in_a_branch(Buffers) {
  if (right || threadIdx.x < 64) __syncthreads();
}

template <bool right>
__global__ void two_barriers(Buffers) {
  if (right || threadIdx.x < 64)
    __syncthreads();
  else
    __syncthreads();
}

template <bool right>
__global__ void copy_without_wait(Buffers at) {
  if (threadIdx.x < 32) copy_async(tile() + threadIdx.x * 4, at.input + threadIdx.x * 4);
  commit_copies();
  if (right) wait_copies<0>();
  __syncthreads();
  at.output[threadIdx.x] = tile()[threadIdx.x];
}

// The thread that copied sees the bytes after its wait; the others only after a barrier.
template <bool right>
__global__ void copy_without_barrier(Buffers at) {
  clear_tile();
  if (threadIdx.x < 32) copy_async(tile() + threadIdx.x * 4, at.input + threadIdx.x * 4);
  commit_copies();
  wait_copies<0>();
  if (right) __syncthreads();
  at.output[threadIdx.x] = tile()[threadIdx.x];
}

// Two groups in flight: waiting for all but one leaves the second.
template <bool right>
__global__ void copy_of_a_later_group(Buffers at) {
  if (threadIdx.x < 32) copy_async(tile() + threadIdx.x * 4, at.input + threadIdx.x * 4);
  commit_copies();
  if (threadIdx.x < 32) copy_async(tile() + 128 + threadIdx.x * 4, at.input + threadIdx.x * 4);
  commit_copies();
  wait_copies<right ? 0 : 1>();
  __syncthreads();
  at.output[threadIdx.x] = tile()[threadIdx.x + 128];
}

template <bool right>
__global__ void copy_to_a_crooked_address(Buffers at) {
  if (threadIdx.x == 0) copy_async(tile() + (right ? 4 : 3), at.input);
}

template <bool right>
__global__ void divergent_shuffle(Buffers at) {
  if (right || threadIdx.x % 2 == 0) at.output[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 2);
  __syncwarp();
}

template <bool right>
__global__ void shuffle_after_exit(Buffers at) {
  if (!right && threadIdx.x == 9) return;
  at.output[threadIdx.x] = __shfl_xor_sync(kAllLanes, 1.0f, 2);
}

template <bool right>
__global__ void crooked_matrix(Buffers at) {
  for (int i = threadIdx.x; i < 256; i += kWarp) tile()[i] = at.input[i];
  __syncthreads();
  uint32_t r[4];
  load_matrices(r, tile() + threadIdx.x % 32 * 4 + (right ? 0 : 2));
}

template <bool right>
__global__ void matrix_before_syncwarp(Buffers at) {
  for (int i = 0; i < 4; ++i) tile()[threadIdx.x * 4 + i] = 0;
  __syncthreads();
  for (int i = 0; i < 4; ++i) tile()[threadIdx.x % 32 * 4 + i] = at.input[i];
  if (right) __syncwarp();
  uint32_t r[4];
  load_matrices(r, tile() + threadIdx.x % 32 * 4);
}

template <bool right>
__global__ void crooked_vector(Buffers at) {
  const float2 pair = *reinterpret_cast<const float2*>(at.input + (right ? 2 : 1));
  at.output[threadIdx.x] = pair.x + pair.y;
}

// Of a structure only GCC checks the address.
template <bool right>
__global__ void crooked_double(Buffers at) {
  at.output[threadIdx.x] = float(*reinterpret_cast<const double*>(at.input + (right ? 2 : 1)));
}

template <bool right>
__global__ void unrounded_tf32(Buffers at) {
  float d[4] = {};
  const float x = right ? round_tf32(at.input[5]) : at.input[5];
  const float a[4] = {x, x, x, x}, b[2] = {x, x};
  mma_16x8x8(d, a, b);
  at.output[threadIdx.x] = d[0];
}

struct Eight {
  float x[8];
};

// Copies of structures and of bytes, which compilers make with functions of their library.
template <bool right>
__global__ void reads_a_structure_past_the_end(Buffers at) {
  const Eight* from = reinterpret_cast<const Eight*>(at.input + (right ? 248 : 249));
  if (threadIdx.x == 0) *reinterpret_cast<Eight*>(at.output) = *from;
}

template <bool right>
__global__ void copies_bytes_past_the_end(Buffers at) {
  if (threadIdx.x == 0) std::memcpy(at.output, at.input + (right ? 252 : 254), 12);
}

template <bool right>
__global__ void copies_unwritten_bytes(Buffers at) {
  if (right) at.output[threadIdx.x] = at.output[threadIdx.x + 128] = 1;
  __syncthreads();
  if (threadIdx.x < 64) copy_async(tile() + threadIdx.x * 4, at.output + threadIdx.x * 4);
}

template <bool right>
__global__ void reads_anothers_variable(Buffers at) {
  float own = at.input[threadIdx.x];
  float** addresses = reinterpret_cast<float**>(shared_memory());
  if (threadIdx.x == 0) *addresses = &own;
  __syncthreads();
  at.output[threadIdx.x] = right ? own : **addresses;
}

template <bool right>
__global__ void reads_the_host(Buffers at) {
  at.output[threadIdx.x] = float(right ? at.count[0] : *at.host);
}

const float kTable[] = {1, 2, 3};

template <bool right>
__global__ void reads_a_variable_of_the_program(Buffers at) {
  at.output[threadIdx.x] = (right ? kTable : host_table)[at.count[0] + threadIdx.x % 3];
}

template <bool right>
__global__ void reads_null(Buffers at) {
  const float* from = right ? at.input : at.nothing;
  at.output[threadIdx.x] = from[threadIdx.x];
}

template <bool right>
__global__ void throws(Buffers at) {
  if (!right) throw std::runtime_error("no such thing");
}

const Cases kFaults = {
    SIMT_CASE(reads_past_the_end),
    SIMT_CASE(writes_before_the_start),
    SIMT_CASE(writes_read_only),
    SIMT_CASE(reads_past_shared),
    SIMT_CASE(writes_past_shared),
    SIMT_CASE(reads_unwritten_shared),
    SIMT_CASE(reads_unwritten_global),
    SIMT_CASE(reads_shared_of_another_block, 128, 2),
    SIMT_CASE(barrier_in_a_branch),
    SIMT_CASE(two_barriers),
    SIMT_CASE(copy_without_wait),
    SIMT_CASE(copy_without_barrier),
    SIMT_CASE(copy_of_a_later_group),
    SIMT_CASE(copy_to_a_crooked_address),
    SIMT_CASE(divergent_shuffle),
    SIMT_CASE(shuffle_after_exit),
    SIMT_CASE(crooked_matrix, 32),
    SIMT_CASE(matrix_before_syncwarp, 32),
    SIMT_CASE(crooked_vector, 1),
    SIMT_CASE(crooked_double, 1),
    SIMT_CASE(unrounded_tf32, 32),
    SIMT_CASE(reads_a_structure_past_the_end),
    SIMT_CASE(copies_bytes_past_the_end),
    SIMT_CASE(copies_unwritten_bytes),
    SIMT_CASE(reads_anothers_variable),
    SIMT_CASE(reads_the_host),
    SIMT_CASE(reads_a_variable_of_the_program),
    SIMT_CASE(reads_null),
    SIMT_CASE(throws),
};

const Cases& all() {
  static const Cases cases = [] {
    Cases result = kFaults;
    result.merge(races());
    return result;
  }();
  return cases;
}

std::string start(const std::string& name, void (*kernel)(Buffers), int threads, int blocks, size_t shared) {
  struct alignas(64) Memory {  // with gaps, as a stray access that meets another buffer is not seen
    float input[256], gap[64], output[256], other_gap[64];
    int count[4];
  };
  static Memory memory;
  auto& [input, gap, output, other_gap, count] = memory;
  for (int i = 0; i < 256; ++i) input[i] = 1 + float(i) / (1 << 15);
  simt::allow(input, sizeof input, false, "input");
  simt::allow(output, sizeof output, true, "output");
  simt::allow(count, sizeof count, true, "count");
  simt::poison(output, sizeof output);
  for (int& x : count) x = 0;
  std::string error;
  try {
    launch({}, name.c_str(), kernel, Grid{blocks}, threads, shared, Buffers{input, output, count, &blocks, nullptr});
  } catch (const std::exception& fault) {
    error = fault.what();
  }
  simt::forget(input), simt::forget(output), simt::forget(count);
  return error;
}

}  // namespace
}  // namespace faults

// What is reported of a kernel; nothing if all is well.
extern "C" const char* run_case(const char* name, int right) {
  using namespace faults;
  static std::string error;
  const Case& c = all().at(name);
  return (error = start(name, right ? c.right : c.wrong, c.threads, c.blocks, kShared)).c_str();
}

extern "C" const char* case_names() {
  static std::string names;
  names.clear();
  for (const auto& [name, unused] : faults::all()) names += name + " ";
  return names.c_str();
}

extern "C" const char* run_with(int threads, int shared) {
  static std::string error;
  return (error = faults::start("configuration", faults::barrier_in_a_branch<true>, threads, 1, size_t(shared)))
      .c_str();
}
